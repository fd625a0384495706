"""What the kernel must refuse a sandbox: rows H7 to H11 and mistakes 7 and 10 of ABUSE.md."""

from __future__ import annotations

from typing import Any

import pytest

from Rig.engine import Engine
from Rig.sandboxes import Sandboxes

CAPABILITIES = {
    "DAC_READ_SEARCH": 2, "LINUX_IMMUTABLE": 9, "NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14,
    "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_PTRACE": 19, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_NICE": 23,
    "SYS_RESOURCE": 24, "SYS_TIME": 25, "SYS_TTY_CONFIG": 26, "MKNOD": 27, "AUDIT_CONTROL": 30,
    "MAC_OVERRIDE": 32, "SYSLOG": 34, "BLOCK_SUSPEND": 36, "PERFMON": 38, "BPF": 39, "CHECKPOINT_RESTORE": 40,
}  # fmt: skip


def status(box: Any, field: str) -> str:
    text = box.process.exec("cat /proc/self/status").result
    return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith(field + ":"))


@pytest.mark.parametrize("which", ["attacker", "rooted"])
def test_capabilities(which: str, request: pytest.FixtureRequest) -> None:
    box = request.getfixturevalue(which)
    for field in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        held = int(status(box, field), 16)
        dangerous = [name for name, bit in CAPABILITIES.items() if held >> bit & 1]
        assert not dangerous, f"{field}: {dangerous}"
    assert status(box, "NoNewPrivs") == "1"
    assert status(box, "Seccomp") == "2", "a seccomp filter is on"


def test_root_in_the_sandbox_is_refused_by_the_kernel(rooted: Any) -> None:
    # Should one of these succeed one day, it must harm nothing: they write back what was there, or ask for help.
    for command in (
        "mount -t tmpfs none /mnt", "mount -o remount,rw /proc/sys", "mount --bind / /tmp", "umount /proc", "umount -l /etc/hosts",
        "unshare -m true", "unshare -n true", "unshare -U true", "unshare -p -f true", "pivot_root / /tmp", "echo h > /proc/sysrq-trigger",
        "v=$(cat /proc/sys/kernel/core_pattern); echo \"$v\" > /proc/sys/kernel/core_pattern",
        "v=$(cat /proc/sys/kernel/panic); echo \"$v\" > /proc/sys/kernel/panic", "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "v=$(cat /sys/kernel/profiling); echo \"$v\" > /sys/kernel/profiling", "cd /sys/fs/cgroup/memory || cd /sys/fs/cgroup; echo $$ > cgroup.procs",
        "cd /sys/fs/cgroup; if test -d memory; then echo -1 > memory/memory.limit_in_bytes; else test -e memory.max && echo max > memory.max; fi",
        "cd /sys/fs/cgroup/memory || cd /sys/fs/cgroup; mkdir x",
        "insmod /bin/busybox", "! date -s \"$(date '+%Y-%m-%d %H:%M:%S')\" 2>&1 | grep -q 'not permitted'", "hostname \"$(hostname)\"", "swapon /dev/sda", "hwclock -w",
        "head -c 1 /proc/kcore | grep -q .", "head -c 1 /dev/mem | grep -q .", "head -c 1 /dev/kmsg", "head -c 1 /proc/kmsg",
        "ls /proc/1/root/../../var/lib/docker", "losetup /dev/loop0 /bin/busybox", "chattr +i /bin/busybox",
        "mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk", "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
    ):  # fmt: skip
        done = rooted.process.exec(f"({command})", timeout=20)
        assert done.exit_code != 0, f"{command!r} succeeded: {done.result[:200]}"
    assert rooted.process.exec("id -u").result == "0\n", "control: it is root, and its sandbox lives"


def test_nothing_of_the_host_is_there(attacker: Any, rooted: Any) -> None:
    for box in (attacker, rooted):
        for path in (
            "/var/run/docker.sock", "/run/docker.sock", "/run/containerd", "/run/martlet", "/var/lib/docker", "/dev/kvm", "/dev/mem",
            "/dev/sda", "/dev/vda", "/dev/loop0", "/dev/net/tun", "/dev/fuse", "/.dockerinit", "/host",
        ):  # fmt: skip
            assert box.process.exec(f"test -e {path}").exit_code == 1, path
        sockets = box.process.exec("awk 'NR > 1 && $8 != \"\" { print $8 }' /proc/net/unix").result
        assert "docker" not in sockets and "containerd" not in sockets
        devices = set(box.process.exec("ls /dev").result.split())
        assert devices <= {
            "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
            "zero", "console", "init",
        }, devices  # fmt: skip
        assert int(box.process.exec("ls -d /proc/[0-9]* | wc -l").result) < 60, "only its own processes"


@pytest.mark.parametrize(
    "code",
    [
        "ctypes.CDLL(None).unshare(0x10000000)",  # CLONE_NEWUSER
        "ctypes.CDLL(None).unshare(0x00020000)",  # CLONE_NEWNS
        "ctypes.CDLL(None).unshare(0x40000000)",  # CLONE_NEWNET
        "ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None)",
        "ctypes.CDLL(None).syscall(321, 0, 0, 0)",  # bpf
        "ctypes.CDLL(None).syscall(298, 0, 0, -1, -1, 0)",  # perf_event_open
        "ctypes.CDLL(None).syscall(248, b'user', b'x', b'y', 1, -4)",  # add_key
        "ctypes.CDLL(None).syscall(175, 0, 0, b'')",  # init_module
        "ctypes.CDLL(None).syscall(246, 0, 0, 0, 0)",  # kexec_load
        "ctypes.CDLL(None).syscall(304, -100, 0, 0)",  # open_by_handle_at
        "ctypes.CDLL(None).syscall(323, 1)",  # userfaultfd
        "ctypes.CDLL(None).setns(0, 0)",
        "ctypes.CDLL(None).iopl(3)",
    ],
)
def test_system_calls(attacker: Any, code: str) -> None:
    """An ordinary user's attempt at each dangerous call; x86-64 numbers (another architecture's are refused as unknown)."""
    done = attacker.process.exec(f"python3 -c \"import ctypes, sys; sys.exit(0 if {code} < 0 else 9)\"")
    assert done.exit_code == 0, f"{code} was allowed: {done.result}"
    assert attacker.process.exec("python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).getppid() < 0)'").exit_code == 0


def test_no_way_up_to_root(attacker: Any) -> None:
    assert attacker.process.exec("id -u").result.strip() != "0", "control: the default user is not root"
    attacker.process.exec("cp /bin/sh own-shell; chmod 4755 own-shell")
    for command in ("su -c id root </dev/null", "sudo -n id", "./own-shell -p -c 'test $(id -u) = 0'", "chroot / id", "cat /etc/shadow"):
        assert attacker.process.exec(command, timeout=20).exit_code != 0, command


def test_the_container_is_made_from_an_allow_list(attacker: Any, engine: Engine) -> None:
    """What the engine was asked for, read from the engine."""
    inspected = engine.container(attacker.id)
    host = inspected["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapDrop"] and host["CapDrop"][0].upper().endswith("ALL")
    assert not {each.removeprefix("CAP_") for each in host["CapAdd"] or []} & set(CAPABILITIES)
    assert any(each.startswith("no-new-privileges") and "false" not in each for each in host["SecurityOpt"])
    assert not any("unconfined" in each for each in host["SecurityOpt"])
    assert host["Memory"] == host["MemorySwap"] == attacker.memory * 2**30
    assert 0 < host["PidsLimit"] <= 100_000
    assert host["LogConfig"]["Type"] == "none" or host["LogConfig"]["Config"].get("max-size")
    assert (host["PidMode"], host["UTSMode"], host["IpcMode"]) == ("", "", "private")
    assert host["NetworkMode"] not in ("host", "none", "default", "bridge") and not host["NetworkMode"].startswith("container")
    assert not host["Devices"] and not host["PortBindings"] and host["CgroupParent"] is not None
    assert any(each["Name"] == "nofile" for each in host["Ulimits"] or [])
    for mount in inspected["Mounts"]:
        assert mount["Destination"] == "/.martlet/bin" and mount["RW"] is False, mount
    assert {"/proc/kcore", "/proc/timer_list"} <= set(host["MaskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(host["ReadonlyPaths"])


def test_a_user_cannot_write_our_labels_or_variables(sandboxes: Sandboxes, busybox: str, engine: Engine) -> None:
    wanted = {"martlet.sandbox": "00000000-0000-4000-8000-000000000000", "martlet.runner": "x", "martlet.epoch": "99"}
    made = sandboxes.create(snapshot=busybox, labels=wanted, env_vars={"LD_PRELOAD": "/tmp/x.so", "PATH": "/nowhere"})
    labels = engine.container(made.id)["Config"]["Labels"]
    assert labels["martlet.sandbox"] == made.id and labels["martlet.epoch"] == "1" and labels["martlet.runner"] != "x"
    assert made.process.exec("/bin/echo works").result == "works\n"
    sandboxes.remove([made.id])


@pytest.mark.parametrize("name", ["MARTLET_DAEMON_TOKEN", "MARTLET_SANDBOX_ID", "MARTLET_DAEMON_PORT"])
def test_our_variables_cannot_be_given(sandboxes: Sandboxes, busybox: str, api: Any, name: str) -> None:
    answer = api.post("/sandbox", json={"snapshot": busybox, "env": {name: "9"}, "labels": sandboxes.labels()})
    if answer.status_code == 400:
        assert name in answer.text
        return
    made = sandboxes.client.sdk.get(answer.json()["id"])
    made.wait_for_sandbox_start()
    assert made.process.exec("echo works").result == "works\n", "accepted, and it took the daemon over"
    sandboxes.remove([made.id])
