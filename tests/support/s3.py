"""A real S3 server on loopback: SeaweedFS, whose binary comes as a package."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ports import find_ports

KEY, SECRET = "drrgen-test", "no secret at all"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class S3Server:
    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to it, and to nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def find_program() -> str | None:
    """Find the server's program, beside this Python or on the path."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Run the server over a folder."""
    program = find_program()
    assert program is not None
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List"]}  # fmt: skip
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    data = folder / "data"
    data.mkdir()
    parts = [f"{name}.port" for name in ("master", "volume", "filer", "s3")]
    parts += [f"{part}.grpc" for part in parts]
    ports = dict(zip(parts, find_ports(len(parts)), strict=True))
    words = [f"-{part}={port}" for part, port in ports.items()]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [program, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer",
             "-s3", f"-s3.config={config}", "-volume.max=20", "-master.volumeSizeLimitMB=64",
             "-master.telemetry=false", *words],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, env={"PATH": "", "HOME": str(folder)},
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{ports['s3.port']}"
            wait_for(url, process, folder / "server.log")
            yield S3Server(url)
        finally:
            process.kill()
            process.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server answers, whatever it says."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/status", timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")
