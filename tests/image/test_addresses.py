"""The image's binary in a pod that has IPv6 addresses alone, as in an IPv6 cluster."""

import subprocess

POD = "fd00::2"

# A network of its own without one IPv4 address. The kubelet probes the pod's address; the app asks at localhost.
SCRIPT = f"""
trap 'kill $(jobs -p)' EXIT
ip link set lo up
ip -4 address flush dev lo
ip -6 address add {POD}/64 dev lo nodad
memcached -u root -l {POD} -p 11311 &
for _ in $(seq 600); do
    (exec 3<>/dev/tcp/{POD}/11311) 2>/dev/null && break
    sleep 0.1
done
"$1" serve --nodes '[{POD}]:11311' &
python3 - <<'end'
import socket, time, urllib.request

def asked(path):
    for attempt in range(600):
        try:
            return urllib.request.urlopen(f"http://[{POD}]:9150/{{path}}", timeout=60).read().decode().strip()
        except OSError as error:
            last = error
            time.sleep(0.1)
    raise last

print(asked("readyz"), asked("healthz"))
with socket.create_connection(("::1", 11211), timeout=60) as client:
    client.sendall(b"set k 0 0 1\\r\\nx\\r\\nget k\\r\\nquit\\r\\n")
    client.shutdown(socket.SHUT_WR)
    with client.makefile("rb") as reply:
        print(reply.read().decode().split())
end
"""


def test_a_pod_with_ipv6_addresses_alone(binary):
    command = ["unshare", "--net", "bash", "-euc", SCRIPT, "bash", str(binary)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == ["ok ok", "['STORED', 'VALUE', 'k', '0', '1', 'x', 'END']"], done.stdout
    assert "listen=[::1]:11211" in done.stderr, done.stderr
