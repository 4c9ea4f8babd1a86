# syntax=docker/dockerfile:1
# The HTTP service on a CPU:  docker build -t lm-audio . && docker run -p 127.0.0.1:8000:8000 lm-audio
# With CUDA:                  docker build --build-arg TORCH_BACKEND=cu128 -t lm-audio:cuda .
# Without a compiler (smaller, 2.5 times slower on a CPU):  docker build --build-arg KERNELS=0 .
FROM python:3.12-slim AS build
# What uv calls the build of PyTorch: cpu, cu126, cu128, ...
ARG TORCH_BACKEND=cpu
RUN pip install --no-cache-dir "uv>=0.9,<1" && uv venv /opt/lm-audio
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lm_audio lm_audio
COPY tokenizers tokenizers
COPY recipes recipes
RUN uv pip install --no-cache --python /opt/lm-audio --torch-backend="${TORCH_BACKEND}" ".[serve,fast]"

FROM python:3.12-slim
ARG KERNELS=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The CPU kernels are compiled on first use, for the machine that runs them.
# hadolint ignore=DL3008
RUN if [ "${KERNELS}" = 1 ]; then \
      apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --create-home --uid 1000 lm-audio && install -d -o 1000 /home/lm-audio/.cache
COPY --from=build /opt/lm-audio /opt/lm-audio
ENV PATH=/opt/lm-audio/bin:$PATH
USER 1000
WORKDIR /home/lm-audio
VOLUME /home/lm-audio/.cache
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["lm-audio"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
