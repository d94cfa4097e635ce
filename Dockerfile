# One image per service: docker build --build-arg SERVICE=ingest -t kivuko-ingest .
# It holds contracts, libs, the command line and that service, with that service's dependencies; no other service.
ARG PYTHON_IMAGE=python:3.13-slim

# The image is chosen by its release above; a digest belongs into the build of a release.
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS build
ARG SERVICE
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
WORKDIR /src
ENV UV_PROJECT_ENVIRONMENT=/opt/kivuko UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY pyproject.toml uv.lock ./
# Dependencies first: this layer is built again only when the lock changes.
RUN test -n "${SERVICE}" || { echo "name the service: --build-arg SERVICE=ingest" >&2; exit 1; }; \
    uv sync --frozen --no-install-project --no-default-groups --group cli --group "${SERVICE}"
COPY README.md LICENSE ./
COPY contracts contracts
COPY libs libs
COPY services/__init__.py services/__init__.py
COPY services/cli services/cli
COPY services/${SERVICE} services/${SERVICE}
RUN uv sync --frozen --no-editable --no-default-groups --group cli --group "${SERVICE}"

# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE}
ARG SERVICE
ENV PATH=/opt/kivuko/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KIVUKO_SERVICE=${SERVICE} \
    KIVUKO_HOME=/var/lib/kivuko \
    KIVUKO_BIND=0.0.0.0
RUN groupadd --system --gid 10001 kivuko \
    && useradd --system --uid 10001 --gid kivuko --home-dir /var/lib/kivuko --create-home --shell /usr/sbin/nologin kivuko \
    && chmod 0700 /var/lib/kivuko
COPY --from=build /opt/kivuko /opt/kivuko
USER 10001:10001
WORKDIR /var/lib/kivuko
VOLUME /var/lib/kivuko
# 8080 HTTP, 11112 DICOM (ingest), 2762 the same with TLS, 11113 worklist and MPPS, 2575 HL7 (worklist)
EXPOSE 8080 11112 2762 11113 2575
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
# `kivuko migrate` is the other thing that is run with this image.
ENTRYPOINT ["/bin/sh", "-c", "if [ $# -eq 0 ]; then set -- run \"$KIVUKO_SERVICE\"; fi; exec kivuko \"$@\"", "kivuko"]
