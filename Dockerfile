# The service over finished runs; they are mounted, and nothing is trained here.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 recinject
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recinject recinject
COPY prompts prompts
COPY recipes recipes
# torch without CUDA: the service decodes on the processor.
RUN pip install --no-cache-dir --constraint constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu '.[serve]'
USER 1000
WORKDIR /home/recinject
ENV OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health')"]
# RECINJECT_TOKEN is the token that requests need.
ENTRYPOINT ["recinject", "serve", "--host", "0.0.0.0"]
CMD ["quickstart"]
