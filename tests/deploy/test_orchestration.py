"""Compose file, Kubernetes manifests and chart, by the schemas of their own projects."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compose_spec
import helm_python
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from helm_python.errors import HelmRenderError
from ruamel.yaml import YAML

from policies.load import load_policies
from proxy.settings import load
from proxy.settings.values import parse_duration
from tests.deploy.generated import CHART, FLEET, fleet_manifests, rendered

ROOT = Path(__file__).resolve().parents[2]
SIDECAR = ROOT / "deploy" / "kubernetes" / "sidecar.yaml"

OLDEST, NEWEST = "1.30", "1.37"
"""Of Kubernetes: the first with `preStop.sleep` on by default, and a recent one."""

TLS = {f"{part}_file": f"/run/secrets/offramp-tls/tls.{part}" for part in ("cert", "key")}

EVERYTHING = {
    "mode": "single",
    "secrets": {"adminToken": {"name": "offramp-admin"}, "more": ["offramp-tls"]},
    "policies": "rules: [{name: all, then: defer, mode: shadow}]\n",
    "config": {"batching": {"linger": "5s"}, "tls": TLS, "admin": {"tls": TLS}},
    "persistence": {"storageClass": "fast"},
    "podAnnotations": {"a": "b"},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "networkPolicy": {"egress": [{"ports": [{"port": 8443}]}]},
}
"""Values that turn on what the defaults leave out."""

Manifest = dict[str, Any]


def manifests(text: str) -> list[Manifest]:
    return list(YAML(typ="safe").load_all(text))


def all_sets() -> dict[str, list[Manifest]]:
    return {
        "fleet": manifests(FLEET.read_text()),
        "sidecar": manifests(SIDECAR.read_text()),
        "single": manifests(rendered(EVERYTHING)),
        "bare": manifests(
            rendered(
                {
                    "autoscaling": {"enabled": False},
                    "podDisruptionBudget": {"enabled": False},
                    "networkPolicy": {"enabled": False},
                }
            )
        ),
    }


SETS = all_sets()


def one(name: str, kind: str) -> Manifest:
    (found,) = [each for each in SETS[name] if each["kind"] == kind]
    return found


def pods(name: str) -> Iterator[Manifest]:
    for each in SETS[name]:
        if each["kind"] in {"Deployment", "StatefulSet"}:
            yield each["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def offramp(pod: Manifest) -> Manifest:
    (found,) = [each for each in containers(pod) if each["name"] == "offramp"]
    return found


# Compose.


def compose() -> Manifest:
    content: Manifest = YAML(typ="safe").load((ROOT / "deploy" / "compose.yaml").read_text())
    return content


def test_the_compose_file_is_one():
    compose_spec.PyCompose.from_json(json.dumps(compose())).validate()


def test_every_volume_of_the_compose_file_is_declared():
    services = compose()["services"].values()
    used = {mount.partition(":")[0] for each in services for mount in each.get("volumes", ())}

    assert used == set(compose()["volumes"])


def test_redis_promises_what_is_on_disk_and_evicts_nothing():
    words = " ".join(compose()["services"]["redis"]["command"])

    assert "--appendonly yes" in words
    assert "--appendfsync always" in words
    assert "--maxmemory-policy noeviction" in words


def test_containers_of_the_compose_file_can_do_little_and_have_time_to_drain(tmp_path):
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    drain = load(environ={"HOME": str(tmp_path)}).settings.instance.drain_timeout
    grace = parse_duration(compose()["services"]["offramp"]["stop_grace_period"])
    assert grace.total_seconds() >= drain.total_seconds() + 10


def test_the_variables_of_the_compose_file_are_settings(tmp_path):
    key = tmp_path / "sealing_key"
    key.write_text("")
    environ = compose()["services"]["fleet"]["environment"]
    environ["OFFRAMP_SECRET_KEY_FILE"] = str(key)

    assert load(environ=environ).settings.store.is_redis


# Kubernetes.


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", SETS)
def test_every_manifest_is_valid_and_has_no_unknown_field(name, version):
    assert len(SETS[name]) >= 2
    for each in SETS[name]:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_containers_can_do_as_little_as_the_restricted_standard_asks(name):
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize("name", SETS)
def test_secrets_are_mounted_so_that_the_key_file_is_not_refused(name):
    for pod in pods(name):
        modes = {volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume}
        assert modes == {0o440}
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("name", SETS)
def test_nothing_that_the_process_asks_of_the_store_decides_whether_it_gets_calls(name):
    for pod in pods(name):
        container = offramp(pod)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                scheme = {"scheme": "HTTPS"} if name == "single" else {}
                assert container[probe]["httpGet"] == {"path": "/livez", "port": "admin", **scheme}
        assert "startupProbe" in container


@pytest.mark.parametrize("name", SETS)
def test_a_pod_has_time_to_drain(name, tmp_path):
    drain = load(environ={"HOME": str(tmp_path)}).settings.instance.drain_timeout
    for pod in pods(name):
        pause = offramp(pod).get("lifecycle", {}).get("preStop", {}).get("sleep", {"seconds": 0})
        needed = pause["seconds"] + drain.total_seconds() + 5
        assert pod["terminationGracePeriodSeconds"] >= needed


def test_the_sidecar_is_a_native_one_and_only_its_pod_reaches_it():
    (pod,) = pods("sidecar")

    assert [each["name"] for each in pod["initContainers"]] == ["offramp"]
    assert offramp(pod)["restartPolicy"] == "Always"
    environ = {each["name"]: each["value"] for each in offramp(pod)["env"]}
    assert environ["OFFRAMP_LISTEN"].startswith("127.0.0.1:")
    assert [each["name"] for each in offramp(pod)["ports"]] == ["admin"]
    application = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert application["OPENAI_BASE_URL"] == f"http://{environ['OFFRAMP_LISTEN']}/v1"
    claimed = [each["metadata"]["name"] for each in workload("sidecar")["volumeClaimTemplates"]]
    mounted = {each["name"]: each["mountPath"] for each in offramp(pod)["volumeMounts"]}
    assert mounted[claimed[0]] == "/var/lib/offramp"


def workload(name: str) -> Manifest:
    kinds = {"Deployment", "StatefulSet"}
    found: list[Manifest] = [each["spec"] for each in SETS[name] if each["kind"] in kinds]
    assert len(found) == 1
    return found[0]


def test_the_variables_of_the_sidecar_are_settings(tmp_path):
    (pod,) = pods("sidecar")
    environ = {each["name"]: each["value"] for each in offramp(pod)["env"]}
    environ |= {"HOME": str(tmp_path), "OFFRAMP_SECRET_KEY_FILE": str(tmp_path / "key")}

    load(environ=environ)


@pytest.mark.parametrize("name", SETS)
def test_whatever_selects_pods_selects_these(name):
    template = workload(name)["template"]["metadata"]["labels"]
    for each in SETS[name]:
        spec = each.get("spec", {})
        for selector in (spec.get("selector"), spec.get("podSelector")):
            if selector is not None:
                wanted = selector.get("matchLabels", selector)
                assert wanted.items() <= template.items(), each["kind"]


def test_every_mount_has_its_volume():
    for name in SETS:
        for pod in pods(name):
            volumes = {each["name"] for each in pod["volumes"]}
            volumes |= {
                each["metadata"]["name"] for each in workload(name).get("volumeClaimTemplates", ())
            }
            mounts = {m["name"] for c in containers(pod) for m in c.get("volumeMounts", ())}
            assert mounts <= volumes


def test_the_fleet_scales_and_keeps_all_but_one_of_its_pods():
    assert one("fleet", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": one("fleet", "Deployment")["metadata"]["name"],
    }
    assert "replicas" not in one("fleet", "Deployment")["spec"]
    assert one("bare", "Deployment")["spec"]["replicas"] == 2
    assert one("fleet", "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_service_leads_to_calls_and_never_to_the_operators_port():
    assert [each["targetPort"] for each in one("fleet", "Service")["spec"]["ports"]] == ["http"]


def test_the_fleet_reaches_providers_but_no_metadata_service():
    egress = one("fleet", "NetworkPolicy")["spec"]["egress"]
    open_blocks = [to["ipBlock"] for rule in egress for to in rule["to"] if "ipBlock" in to]

    assert {each["cidr"] for each in open_blocks} == {"0.0.0.0/0", "::/0"}
    assert "169.254.0.0/16" in open_blocks[0]["except"]


# The chart.


SECRETS = ROOT / "deploy" / "kubernetes" / "secrets"


@pytest.mark.parametrize("cloud", ["aws", "azure", "gcp"])
def test_the_secrets_of_a_cloud_become_those_that_the_chart_mounts(cloud):
    """No validator of the operator's kinds is in a registry; what we refer to must agree."""
    account, store = manifests((SECRETS / f"{cloud}.yaml").read_text())
    made = manifests((SECRETS / "external-secrets.yaml").read_text())
    wanted = YAML(typ="safe").load((CHART / "values.yaml").read_text())["secrets"]

    kubernetes_validate.validate(account, NEWEST, strict=True)
    text = json.dumps(store["spec"]["provider"])
    assert json.dumps({"name": account["metadata"]["name"]}) in text
    assert len(store["spec"]["provider"]) == 1
    for each in made:
        assert each["apiVersion"] == store["apiVersion"] == "external-secrets.io/v1"
        reference = each["spec"]["secretStoreRef"]
        assert reference == {"name": store["metadata"]["name"], "kind": store["kind"]}
    keys = {each["spec"]["target"]["name"]: each["spec"]["data"][0]["secretKey"] for each in made}
    for part in ("sealingKey", "redisUrl"):
        assert keys[wanted[part]["name"]] == wanted[part]["key"]


def test_the_linter_of_charts_finds_no_fault():
    found = helm_python.lint(str(CHART))

    # Severity 1 is advice: the chart has no icon.
    assert [each for each in found["messages"] if each["severity"] > 1] == []
    assert found["errors"] == []


def test_the_manifests_of_the_fleet_are_what_the_chart_renders():
    assert FLEET.read_text() == fleet_manifests()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"mode": "Single"}, 'mode: "Single" is neither'),
        ({"shutdown": {"drainSeconds": 300}}, "graceSeconds: must be at least 310"),
        ({"config": {"listen": "0.0.0.0:9000"}}, "config.listen: must keep port 8080"),
        ({"config": {"admin": {"listen": "0.0.0.0:80"}}}, "config.admin.listen: must keep port"),
    ],
)
def test_the_chart_refuses_what_would_not_do_what_it_says(values, complaint):
    with pytest.raises(HelmRenderError) as raised:
        rendered(values)

    assert complaint in str(raised.value)


@pytest.mark.parametrize("name", ["fleet", "single"])
def test_the_chart_configures_what_the_settings_know(name, tmp_path):
    files = one(name, "ConfigMap")["data"]
    for file, text in files.items():
        mounted = text.replace("/run/secrets", str(tmp_path)).replace("/var/lib", str(tmp_path))
        (tmp_path / file).write_text(mounted)
    for secret, content in (
        ("offramp/offramp.key", ""),
        ("offramp-admin/token", "t"),
        ("offramp-tls/tls.cert", "c"),
        ("offramp-tls/tls.key", "k"),
    ):
        (tmp_path / secret).parent.mkdir(exist_ok=True)
        (tmp_path / secret).write_text(content)
    environ = {"OFFRAMP_STORE": "redis://redis:6379/0"} if name == "fleet" else {}

    settings = load(tmp_path / "offramp.yaml", environ=environ).settings

    assert settings.admin.listen.port == 8081
    assert (settings.policies is not None) == (name == "single")
    assert settings.batching.linger.total_seconds() == (60 if name == "fleet" else 5)
    if settings.policies is not None:
        assert len(load_policies(files["policies.yaml"], "policies.yaml").rules) == 1
