# Offramp as an image: two stages, no compiler, no root, nothing written but the volume.
#
#   docker build --tag offramp:local .
#
# Every distribution comes by exact version and hash from deploy/requirements.txt,
# which deploy/lock.sh writes. To fix the base as well, give it by digest:
#   --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:…
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# What changes seldom comes first, so that a change of the code reuses this layer.
COPY deploy/requirements.txt deploy/requirements-build.txt deploy/
# Wheels alone: a source distribution runs code of its own when it is installed.
# The environment gets no pip, since nothing is to be installed into it later.
RUN python -m venv --without-pip /opt/offramp \
    && python -m pip --python /opt/offramp install \
        --require-hashes --only-binary=:all: --requirement deploy/requirements.txt \
    && python -m pip install \
        --require-hashes --only-binary=:all: --requirement deploy/requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY policies policies
RUN python -m pip wheel --no-index --no-build-isolation --no-deps --wheel-dir /wheels . \
    && python -m pip --python /opt/offramp install --no-index --no-deps /wheels/*.whl \
    && /opt/offramp/bin/offramp --version

FROM ${BASE}
# A number, so that Kubernetes can tell that it is not root.
RUN groupadd --gid 10001 offramp \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/offramp \
        --shell /usr/sbin/nologin offramp \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/offramp
COPY --from=build /opt/offramp /opt/offramp
COPY deploy/image/offramp.yaml /etc/offramp/offramp.yaml
ENV PATH=/opt/offramp/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/offramp \
    PYTHONDONTWRITEBYTECODE=1 \
    OFFRAMP_CONFIG=/etc/offramp/offramp.yaml
USER 10001:10001
WORKDIR /var/lib/offramp
VOLUME /var/lib/offramp
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# `http.client`, unlike `urllib`, does not send the question to a proxy of the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/opt/offramp/bin/python", "-ISc", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8081, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
# The process itself is PID 1 and handles SIGTERM: no shell stands in between.
ENTRYPOINT ["/opt/offramp/bin/offramp"]
CMD ["serve"]
