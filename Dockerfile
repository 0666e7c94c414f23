# One image for every process; the command says which, and docker-compose.yml shows them all.

FROM python:3.13.15-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Without pip: nothing is installed in a running container.
RUN python -m venv --without-pip /opt/leadsweep
WORKDIR /build
# The dependencies are a layer of their own, which is kept until the lock changes. Wheels only: there is no compiler here.
COPY requirements.lock ./
RUN pip --python /opt/leadsweep/bin/python install --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md LICENSE zensical.toml ./
COPY docs docs
COPY scripts/build_guide.py scripts/
COPY shared shared
COPY worker worker
COPY api api
COPY cli cli
COPY client client
# Server and client are built from this folder, never asked of an index: somebody else may own the name there.
RUN pip wheel --no-deps --wheel-dir /wheels . ./client \
    && pip --python /opt/leadsweep/bin/python install --no-deps --no-index /wheels/*.whl

FROM python:3.13.15-slim
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin leadsweep
COPY --from=build /opt/leadsweep /opt/leadsweep
# Logs appear as they are written; the file system may be read-only (the build has compiled everything already).
ENV PATH=/opt/leadsweep/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
CMD ["leadsweep", "api", "--host", "0.0.0.0", "--port", "8000"]
