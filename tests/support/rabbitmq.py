"""A private RabbitMQ from Debian's package."""

import os
import signal
from pathlib import Path
from uuid import uuid4

import httpx

from tests.support.port import free_port
from tests.support.process import Program, answers, program

_ROOT = Path("/usr/lib/rabbitmq/lib")


class RabbitMQ:
    """One node on private ports, with the management interface. Slow to start (about 10 s): one for the whole run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port, self.management_port = free_port(), free_port()
        name_service, distribution = free_port(), free_port()
        # The wrapper in /usr/sbin changes the user and the environment, so the script behind it is run.
        folders = [str(each / "sbin") for each in sorted(_ROOT.glob("rabbitmq_server-*"), reverse=True)]
        server = program("rabbitmq-server", "rabbitmq-server", *folders)
        (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
            "management_agent.disable_metrics_collector = false\n"
            "disk_free_limit.absolute = 50MB\nlog.file.level = info\n"
        )
        env = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(name_service),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Without this the script stays in front of the Erlang machine, and killing it would leave that running.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        }
        # Started here because the Erlang machine would start one that outlives it.
        self._names = Program(
            [program("epmd", "erlang-base"), "-port", str(name_service), "-address", "127.0.0.1"],
            folder,
            name="epmd",
            env=env,
        )
        self._names.start(lambda: answers(name_service))
        self._server = Program([server], folder, name="rabbitmq", env=env)
        self._api = httpx.Client(
            base_url=f"http://127.0.0.1:{self.management_port}/api/",
            auth=("guest", "guest"),
            timeout=30.0,
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """Address of the vhost `/`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def vhost(self) -> str:
        """Make a fresh vhost and give its address."""
        name = f"test-{uuid4().hex[:12]}"
        self._api.put(f"vhosts/{name}").raise_for_status()
        anything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._api.put(f"permissions/{name}/guest", json=anything).raise_for_status()
        return self.url + name

    def start(self) -> None:
        """Start it, or start it again with everything it had; return when it serves."""
        self._server.start(self._serves, timeout_s=120.0)

    def stop(self) -> None:
        """Stop it as an operator would."""
        self._server.stop()

    def kill(self) -> None:
        """Stop it as a power cut would."""
        self._server.kill()

    def close(self) -> None:
        """End everything that belongs to it."""
        self._server.kill()
        self._names.stop(signal.SIGKILL)
        self._api.close()

    def _serves(self) -> bool:
        try:
            return self._api.get("health/checks/virtual-hosts").status_code == httpx.codes.OK and answers(self.port)
        except httpx.TransportError:
            return False
