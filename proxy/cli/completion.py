"""`offramp completion`."""

import click
from click.shell_completion import get_completion_class

from proxy.cli import COMPLETION_VARIABLE, cli


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes a shell complete commands and options.

    \b
      bash:  echo 'source <(offramp completion bash)' >> ~/.bashrc
      zsh:   echo 'source <(offramp completion zsh)' >> ~/.zshrc
      fish:  offramp completion fish > ~/.config/fish/completions/offramp.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "offramp", COMPLETION_VARIABLE).source())
