# The server alone: no PyTorch, no compiler, no root.
#   phidet publish person models/person && docker compose up
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/phidet && /opt/phidet/bin/pip install --no-cache-dir '.[serve,grpc,otel]'

FROM python:3.12-slim
COPY --from=build /opt/phidet /opt/phidet
ENV PATH=/opt/phidet/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin phidet
USER 10001
VOLUME /models
EXPOSE 8500 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", \
  "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/v2/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["phidet", "serve", "--host", "0.0.0.0"]
CMD ["--model_name", "person", "--model_base_path", "/models/person", "--port", "8500"]
