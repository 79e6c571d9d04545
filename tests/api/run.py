"""A daemon of its own, with a stand-in for the VMM, asked by schemathesis whatever its API document allows and forbids.

In a network namespace of its own, which its starter made. Arguments: the programs' directory, the kernel package,
schemathesis, the number of examples for each operation, the seed.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

PORT = 2376
URL = f"http://127.0.0.1:{PORT}"
HERE = pathlib.Path(__file__).resolve().parent


def counted(token):
    """How many requests the daemon has answered, by the first digit of the status."""
    ask = urllib.request.Request(f"{URL}/metrics", headers={"Authorization": f"Bearer {token}"})
    text = urllib.request.urlopen(ask).read().decode()
    sums = {}
    for line in text.splitlines():
        if line.startswith("hull_http_requests_total{"):
            status = re.search(r'status="(\d)', line).group(1)
            sums[status] = sums.get(status, 0) + int(float(line.rsplit(" ", 1)[1]))
    return sums


def main():
    programs, package, schemathesis, examples, seed = sys.argv[1:]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "libexec").mkdir()
        subprocess.run(["cp", f"{programs}/examples/stand-in", place / "libexec/hull-vmm"], check=True)
        os.environ |= {
            "HULL_DATA_DIR": f"{place}/data",
            "HULL_RUN_DIR": f"{place}/run",
            "HULL_LIBEXEC": f"{place}/libexec",
        }
        with open(place / "log", "w") as log:
            daemon = subprocess.Popen(
                [f"{programs}/hull", "serve", "--listen", f"127.0.0.1:{PORT}", "--plain-http"],
                stdin=subprocess.DEVNULL, stderr=log,
            )
        try:
            return ask(f"{programs}/hull", package, place, [schemathesis, examples, seed], daemon)
        finally:
            daemon.terminate()
            daemon.wait()
            for vmm in pathlib.Path("/proc").glob("[0-9]*/exe"):
                try:
                    if vmm.readlink() == place / "libexec/hull-vmm":
                        os.kill(int(vmm.parent.name), 9)
                except (FileNotFoundError, ProcessLookupError):
                    pass


def ask(hull, package, place, how, daemon):
    while not (place / "run/hull.sock").exists():
        assert daemon.poll() is None, (place / "log").read_text()
        time.sleep(0.05)

    def hulled(*words):
        return subprocess.run([hull, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    hulled("kernel", "import", "--deb", package)
    (place / "tree").mkdir()
    (place / "tree/file").write_text("content")
    hulled("import", f"{place}/tree", "tree")
    token = hulled("token", "create", "--scope", "admin", "schemathesis")
    os.environ["HULL_TOKEN_ID"] = hulled("token", "ls", "--quiet")
    schemathesis, examples, seed = how
    asked = subprocess.run(
        [
            schemathesis, "--config-file", HERE / "schemathesis.toml", "run", f"{URL}/v1/openapi.json",
            "--checks", "all", "--max-examples", examples, "--seed", seed, "--header", f"Authorization: Bearer {token}",
            "--request-timeout", "30", "--no-color", "--continue-on-failure",
        ],
        cwd=place, env=os.environ | {"PYTHONPATH": str(HERE)},
    )
    assert daemon.poll() is None, f"the daemon is gone: {daemon.returncode}\n" + (place / "log").read_text()[-5000:]
    sums = counted(token)
    print(f"{sum(sums.values())} requests: " + ", ".join(f"{n} of {d}xx" for d, n in sorted(sums.items())))
    failed = [line for line in (place / "log").read_text().splitlines() if "a request failed" in line or "panicked" in line]
    print("\n".join(failed[:50]))
    return asked.returncode or bool(sums.get("5"))


sys.exit(main())
