"""docker-compose.yml, without Docker: its structure, its variables, and its own commands and health
checks on real servers.
"""

import re
import signal

import pytest

from cli.stack.embedded import free_port
from shared.settings import Settings
from tests.deployment.compose import ROOT, TEXT, interpolate, services, variables
from tests.deployment.containers import Container

OURS = ("migrate", "api", "worker", "deliverer", "ticker")
LASTING = sorted(set(services()) - {"migrate"})
EMBEDDED_ONLY = {"LEADSWEEP_DATA_DIR"}


def environment_names():
    """The variables that Settings reads."""
    prefix = Settings.model_config["env_prefix"]
    return {
        field.validation_alias.choices[0] if field.validation_alias else f"{prefix}{name}".upper()
        for name, field in Settings.model_fields.items()
    }


@pytest.mark.parametrize("name", LASTING)
def test_a_service_that_stays_is_watched_restarted_limited_and_given_time_to_stop(name):
    service = services()[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["stop_grace_period"]
    assert service["logging"] == {"driver": "local"}


def test_the_migration_runs_once_and_ours_start_after_it():
    everything = services()
    assert everything["migrate"]["restart"] == "no"
    assert everything["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker", "deliverer", "ticker"):
        assert everything[name]["depends_on"]["migrate"] == {
            "condition": "service_completed_successfully"
        }


def test_nothing_waits_for_the_health_of_ours_which_would_close_a_circle():
    for service in services().values():
        waits = {
            name
            for name, on in service.get("depends_on", {}).items()
            if on["condition"] == "service_healthy"
        }
        assert not waits & set(OURS)


def test_all_of_ours_are_one_image_whose_files_do_not_change():
    for name in OURS:
        service = services()[name]
        assert (service["image"], service["build"]) == ("leadsweep", ".")
        assert (service["read_only"], service["init"]) == (True, True)


@pytest.mark.parametrize("name", services())
def test_no_service_is_root_or_can_become_it_or_has_any_capability(name):
    service = services()[name]
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert not {
        "cap_add",
        "privileged",
        "devices",
        "pid",
        "ipc",
        "network_mode",
        "userns_mode",
    } & set(service)
    # Ours is that of the image, below.
    assert service.get("user") == (None if name in OURS else name)


# PostgreSQL's versions have two numbers, those of the others three.
EXACT = (
    r"(postgres:\d+\.\d+|(redis|rabbitmq):\d+\.\d+\.\d+"
    r"|python:\d+\.\d+\.\d+-slim)(@sha256:[0-9a-f]{64})?"
)


def test_foreign_images_have_exact_versions():
    foreign = [service["image"] for name, service in services().items() if name not in OURS]
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for image in (*foreign, *bases):
        assert re.fullmatch(EXACT, image), image
    assert len(set(bases)) == 1


def test_the_command_that_pins_digests_names_the_images_that_are_used():
    text = (ROOT / "docs/operations.md").read_text()
    (named,) = re.findall(
        r"docker compose --profile rabbitmq config --lock-image-digests ([a-z ]+) >", text
    )
    assert sorted(named.split()) == sorted(set(services()) - set(OURS))
    (base,) = re.findall(r"docker buildx imagetools inspect (\S+)", text)
    assert f"FROM {base} AS build\n" in (ROOT / "Dockerfile").read_text()


def test_what_the_servers_keep_is_in_named_volumes():
    mounts = [
        mount.split(":")[0]
        for service in services().values()
        for mount in service.get("volumes", [])
    ]
    assert sorted(mounts) == ["postgres", "rabbitmq", "redis"]


def test_redis_never_evicts_and_asks_for_its_password():
    assert {"appendonly yes", "maxmemory-policy noeviction"} <= {
        line.strip() for line in TEXT.splitlines()
    }
    assert "requirepass ${REDIS_PASSWORD:?" in TEXT


def test_only_the_api_is_published_and_by_default_to_this_machine_alone():
    published = {
        name: interpolate(port, {})
        for name, service in services().items()
        for port in service.get("ports", [])
    }
    assert published == {"api": "127.0.0.1:8000:8000"}


def test_no_secret_has_a_default():
    secrets = [use for use in variables() if "PASSWORD" in use[0] or "SECRET" in use[0]]
    assert {name for name, sign, _ in secrets if sign == ":?"} == {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "LEADSWEEP_SECRETS_KEY",
    }
    assert not [use for use in secrets if use[1] == ":-" and use[2]]
    with pytest.raises(KeyError):
        interpolate(TEXT, {})


def test_every_setting_reaches_the_containers():
    for name in OURS:
        assert set(services()[name]["environment"]) == environment_names() - EMBEDDED_ONLY


def test_the_example_explains_every_variable_and_no_other_and_holds_no_secret():
    example = dict(
        re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    assert set(example) == environment_names() | {name for name, _, _ in variables()} | {
        "COMPOSE_PROFILES"
    }
    assert {value for name, value in example.items() if "PASSWORD" in name or "SECRET" in name} == {
        ""
    }
    for name, sign, word in variables():
        if sign == ":-" and not name.endswith("_URL"):
            assert example[name] == word


def test_the_image_is_built_from_files_that_exist_as_an_ordinary_user_and_with_hashes():
    dockerfile = (ROOT / "Dockerfile").read_text()
    allowed = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        name
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE)
        for name in line.split()
    ]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    assert "--require-hashes" in dockerfile
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)
    assert dockerfile.count("FROM ") == 2


def test_no_file_names_the_host_of_a_registry():
    locks = [path.name for path in ROOT.glob("requirements*.lock")]
    for name in ("Dockerfile", "docker-compose.yml", ".env.example", *locks, ".ci/run"):
        assert not re.search(r"https?://", (ROOT / name).read_text()), name


def test_the_migration_ends_well(values, tmp_path):
    container = Container("migrate", values, tmp_path).start()
    assert container.process.wait(timeout=60) == 0, container.log.read_text()


@pytest.mark.parametrize("name", ["api", "worker", "deliverer", "ticker"])
def test_a_service_is_unhealthy_until_it_runs_and_stops_when_told(name, values, tmp_path):
    container = Container(name, values, tmp_path, port=free_port())
    assert container.check() != 0
    with container:
        # uvicorn ends cleanly, then dies of the signal that it was sent, as the shell's rules have
        # it.
        assert container.stop() in {0, -signal.SIGTERM}, container.log.read_text()
