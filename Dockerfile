# docker build --tag k8strace .
# docker run --read-only --publish 4317:4317 k8strace
# docker run --read-only --volume ./gateway.yaml:/gateway.yaml:ro k8strace --config /gateway.yaml

FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libcrypt-dev libisal-dev liblz4-dev libnghttp2-dev libsnappy-dev libzstd-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/k8strace
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in LICENSE README.md CHANGELOG.md ./
COPY k8strace k8strace
RUN /opt/k8strace/bin/python -m pip install --no-cache-dir . \
    && /opt/k8strace/bin/python -m pip uninstall --yes pip

FROM python:3.12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libcrypt1 libisal2 liblz4-1 libnghttp2-14 libsnappy1v5 libzstd1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/k8strace /opt/k8strace
# The root may be read-only: nothing is written but what the configuration says.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
EXPOSE 4317 4318 8888 13133
# Kubernetes asks the health_check extension, on 13133.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/k8strace/bin/python", "-m", "k8strace.gateway"]
# Without arguments: the built-in configuration, open to what is outside the container.
CMD ["--set", "receivers.otlp.protocols.grpc.endpoint=0.0.0.0:4317", \
    "--set", "extensions.health_check.endpoint=0.0.0.0:13133", \
    "--set", "service.telemetry.metrics.readers=[{pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888}}}}]"]
