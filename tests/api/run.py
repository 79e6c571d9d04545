"""Has schemathesis ask a daemon whatever its API document allows and forbids.

The daemon is here already, listens on 127.0.0.1 without TLS, and has a kernel and the image `tree`. Arguments: the program
`hull`, the port, the Python that has schemathesis, the number of examples for each operation, the seed. The environment leads `hull` to the daemon.
"""

import os
import pathlib
import re
import subprocess
import sys
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
# The longest a run may take for each example, in seconds, and to begin with.
EACH, START = 30, 600


def counted(url, token):
    """How many requests the daemon has answered, by the first digit of the status."""
    ask = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
    text = urllib.request.urlopen(ask, timeout=60).read().decode()
    sums = {}
    for line in text.splitlines():
        if line.startswith("hull_http_requests_total{"):
            status = re.search(r'status="(\d)', line).group(1)
            sums[status] = sums.get(status, 0) + int(float(line.rsplit(" ", 1)[1]))
    return sums


def main():
    hull, port, python, examples, seed = sys.argv[1:]
    url = f"http://127.0.0.1:{port}"

    def hulled(*words):
        return subprocess.run([hull, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    # What half of the names in requests lead to.
    hulled("volume", "create", "--size", "32m", "data")
    hulled("tenant", "create", "someone")
    keeper = hulled("create", "--name", "keeper", "--restart", "always", "--network", "none", "--memory", "96m",
           "--volume", "data:/data", "--secret", "id=key,env=PATH", "tree", "stay")
    hulled("start", "keeper")
    token = hulled("token", "create", "--scope", "admin", "schemathesis")
    environment = os.environ | {
        "HULL_URL": url,
        "HULL_TOKEN": token,
        "HULL_TOKEN_ID": hulled("token", "ls", "--quiet"),
        "HULL_MICROVM": keeper,
        "HULL_KERNEL": hulled("kernel", "ls", "--quiet"),
        "PYTHONPATH": str(HERE),
    }
    asked = subprocess.run(
        [
            python, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml", "run", f"{url}/v1/openapi.json",
            "--checks", "all", "--max-examples", examples, "--seed", seed, "--header", f"Authorization: Bearer {token}",
            "--request-timeout", "30", "--no-color", "--continue-on-failure", "--no-shrink",
            "--suppress-health-check", "all",
        ],
        env=environment, timeout=START + EACH * int(examples),
    )
    sums = counted(url, token)
    print(f"{sum(sums.values())} requests: " + ", ".join(f"{n} of {d}xx" for d, n in sorted(sums.items())))
    return asked.returncode or bool(sums.get("5"))


sys.exit(main())
