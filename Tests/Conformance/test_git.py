"""Git by the SDK: every method, both flavours, against a git server with authentication inside the sandbox itself."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Iterator

import httpx
import pytest
from daytona import (
    DaytonaBadRequestError,
    DaytonaConflictError,
    DaytonaError,
    DaytonaForbiddenError,
    DaytonaGitAuthFailedError,
    DaytonaGitBranchExistsError,
    DaytonaGitBranchNotFoundError,
    DaytonaGitDirtyWorktreeError,
    DaytonaGitMergeConflictError,
    DaytonaGitPushRejectedError,
    DaytonaGitRemoteRejectedError,
    DaytonaGitRepoNotFoundError,
    DaytonaGitTransportFailedError,
    DaytonaNotFoundError,
    DaytonaUnprocessableEntityError,
)

from Rig import wire
from Rig.environment import REPOSITORY, Environment
from Rig.sandboxes import Client
from Rig.waiting import eventually
from Rig.wire import check_error

USER, PASSWORD = "alice", "s3cr:t'$(id)\" é%40"
MAKE_REPOSITORY = """
set -e; mkdir -p {root}; cd {root}
git init -q --bare -b main {name}; git -C {name} config http.receivepack true
git init -q -b main seed; cd seed; git config user.name seed; git config user.email seed@x
echo one > file; git add file; git commit -qm first; git push -q ../{name} main; cd ..; rm -rf seed
"""
PROCESS_WATCH = """
import glob, os, sys
with open(sys.argv[1], "w") as seen:
    known = set()
    while not os.path.exists(sys.argv[2]):
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                line = open(path, errors="replace").read().replace("\\0", " ")
            except OSError:
                continue
            if "git" in line and line not in known:
                known.add(line)
                print(line, file=seen, flush=True)
    print("the end", file=seen)
"""


@dataclass
class Repositories:
    """What the server in the sandbox serves, and shell commands there for what the SDK cannot do."""

    box: Any
    root: str
    port: int

    def shell(self, script: str) -> str:
        done = self.box.process.exec(f"set -e\n{script}")
        assert done.exit_code == 0, f"{script}: {done.result}"
        return done.result

    def make(self) -> str:
        """The name of a new repository with one commit of `file` on `main`."""
        name = f"{secrets.token_hex(4)}.git"
        self.shell(MAKE_REPOSITORY.format(root=self.root, name=name))
        return name

    def url(self, way: str, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{way}/{name}"


@pytest.fixture(scope="module")
def server(shared: Any) -> Repositories:
    home = shared.get_user_home_dir()
    shared.fs.upload_file((REPOSITORY / "Tests" / "Rig" / "git_server.py").read_bytes(), f"{home}/git_server.py")
    made = Repositories(shared, f"{home}/served", 0)
    made.shell(f"mkdir -p {made.root}")
    # It ends with its standard input, which ends with the sandbox.
    shared.process.exec(
        f"nohup sh -c 'tail -f /dev/null | python3 {home}/git_server.py {made.root} > {home}/port' >/dev/null 2>&1 &",
        env={"GIT_SERVER_USER": USER, "GIT_SERVER_PASSWORD": PASSWORD},
    )
    eventually(lambda: made.shell(f"cat {home}/port 2>/dev/null || true").endswith("\n"), 60, "the git server to listen")
    made.port = int(made.shell(f"cat {home}/port").split()[1])
    return made


@dataclass
class Work:
    """A clone in the test's own flavour."""

    client: Client
    box: Any
    server: Repositories
    name: str
    path: str

    def do(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of `git` with the clone's path."""
        return self.client.wait(getattr(self.box.git, method)(self.path, *arguments, **named))

    def shell(self, script: str) -> str:
        return self.server.shell(f"cd {self.path}; {script}")

    def write(self, name: str, text: str) -> None:
        self.client.wait(self.box.fs.upload_file(text.encode(), f"{self.path}/{name}"))

    def commit(self, name: str, text: str) -> str:
        self.write(name, text)
        self.do("add", [name])
        return self.do("commit", f"change {name}", "Ünï O'Neill", "u@example.com").sha

    def other(self) -> Work:
        """Another clone of the same repository."""
        return clone(self.client, self.box, self.server, self.name)


def clone(client: Client, box: Any, server: Repositories, name: str) -> Work:
    path = f"w-{secrets.token_hex(4)}"
    client.wait(box.git.clone(server.url("open", name), path))
    work = Work(client, box, server, name, path)
    work.shell("git config user.name n; git config user.email e@x")
    return work


@pytest.fixture
def work(client: Client, box: Any, server: Repositories) -> Work:
    return clone(client, box, server, server.make())


@pytest.fixture
def toolbox(shared: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as made:
        yield made


def new_path() -> str:
    return f"n-{secrets.token_hex(4)}"


def test_clone_of_a_branch_a_depth_and_a_commit(client: Client, box: Any, work: Work, server: Repositories) -> None:
    url = server.url("open", work.name)
    first = work.shell("git rev-parse HEAD").strip()
    work.shell("for n in 1 2; do git commit -q --allow-empty -m c$n; done; git push -q origin main main:side")
    branch, shallow, detached, short = (new_path() for _ in range(4))
    client.wait(box.git.clone(url, branch, branch="side"))
    assert client.wait(box.git.status(branch)).current_branch == "side"
    client.wait(box.git.clone(url, shallow, depth=1, insecure_skip_tls=True))
    assert server.shell(f"git -C {shallow} rev-list --count HEAD") == "1\n"
    client.wait(box.git.clone(url, detached, commit_id=first))
    status = client.wait(box.git.status(detached))
    assert (status.detached, status.current_branch, status.file_status) == (True, "HEAD", [])
    assert server.shell(f"git -C {detached} rev-parse HEAD").strip() == first
    client.wait(box.git.clone(url, short, branch="side", commit_id=first[:10]))
    assert server.shell(f"git -C {short} rev-parse HEAD").strip() == first


def test_credentials_of_one_call_are_kept_nowhere(client: Client, box: Any, work: Work, server: Repositories) -> None:
    path = new_path()
    client.wait(box.git.clone(server.url("private", work.name), path, username=USER, password=PASSWORD))
    assert client.wait(box.git.remote_get(path, "origin")) == server.url("private", work.name)
    server.shell(f"cd {path}; git config user.name n; git config user.email e; git commit -q --allow-empty -m x")
    for method in ("push", "pull"):
        with pytest.raises(DaytonaGitAuthFailedError):
            client.wait(getattr(box.git, method)(path))
        client.wait(getattr(box.git, method)(path, username=USER, password=PASSWORD))
    assert server.shell(f"grep -rlF 's3cr' {path} ~/.gitconfig ~/.git-credentials 2>/dev/null || true") == ""


def test_credentials_never_stand_in_the_list_of_processes(
    client: Client, box: Any, work: Work, server: Repositories
) -> None:
    server.shell("rm -f seen stop")
    client.wait(box.fs.upload_file(PROCESS_WATCH.encode(), "watch.py"))
    server.shell("nohup python3 watch.py seen stop >/dev/null 2>&1 </dev/null &")
    eventually(lambda: server.shell("ls seen 2>/dev/null || true") != "", 30, "the watch to begin")

    def is_seen() -> bool:
        """The watch looks now and then, and may miss a clone that is quick."""
        for _ in range(3):
            client.wait(box.git.clone(server.url("private", work.name), new_path(), username=USER, password=PASSWORD))
        return "clone" in server.shell("cat seen")

    eventually(is_seen, 60, "a clone in the list of processes")
    server.shell("touch stop")
    eventually(lambda: "the end" in server.shell("cat seen"), 30, "the watch to end")
    seen = server.shell("cat seen")
    assert "clone" in seen and "s3cr" not in seen, seen



def test_clones_that_fail(client: Client, box: Any, work: Work, server: Repositories) -> None:
    url, path = server.url("open", work.name), new_path()
    private = server.url("private", work.name)
    attempts: list[tuple[type[DaytonaError], str, dict[str, Any]]] = [
        (DaytonaGitAuthFailedError, private, {}),
        (DaytonaGitAuthFailedError, private, {"username": USER, "password": "wrong"}),
        (DaytonaGitAuthFailedError, server.url("denied", work.name), {"password": "token"}),
        (DaytonaGitRepoNotFoundError, server.url("open", "none.git"), {}),
        (DaytonaGitRepoNotFoundError, "/no/such/repository", {}),
        (DaytonaGitBranchNotFoundError, url, {"branch": "none"}),
        (DaytonaNotFoundError, url, {"commit_id": "ab" * 20}),
        (DaytonaGitTransportFailedError, "http://127.0.0.1:1/x.git", {}),
        (DaytonaGitTransportFailedError, server.url("broken", work.name), {}),
        (DaytonaBadRequestError, "ext::sh -c 'touch pwned'", {}),
        (DaytonaBadRequestError, "--upload-pack=touch pwned", {}),
        (DaytonaBadRequestError, "ssh://-oProxyCommand=touch%20pwned/x", {}),
        (DaytonaBadRequestError, url, {"branch": "--upload-pack=touch pwned"}),
        (DaytonaBadRequestError, url, {"depth": -1}),
        (DaytonaBadRequestError, url, {"commit_id": "HEAD"}),
    ]
    for error, where, more in attempts:
        with pytest.raises(error) as raised:
            client.wait(box.git.clone(where, path, **more))
        assert raised.value.source == "DAYTONA_DAEMON" and "wrong" not in str(raised.value), (where, more)
        assert server.shell(f"ls -d {path} pwned 2>/dev/null || true") == "", (where, more)
    with pytest.raises(DaytonaConflictError):
        client.wait(box.git.clone(url, work.path))


def test_status(work: Work) -> None:
    clean = work.do("status")
    assert (clean.current_branch, clean.upstream, clean.ahead, clean.behind) == ("main", "origin/main", 0, 0)
    assert (clean.branch_published, clean.detached, clean.file_status) == (True, False, [])
    work.shell("for f in modified deleted former; do seq 50 > $f; done; git add .; git commit -qm more")
    work.shell(
        "echo x >> modified; rm deleted; git mv former renamed; echo n > new; git add new; mkdir dir; echo u > 'dir/ü n'"
        "; printf b > \"$(printf 'bad\\377')\"; ln -s file link"
    )
    status = work.do("status")
    assert status.ahead == 1
    found = {each.name: (each.staging.value, each.worktree.value, each.extra) for each in status.file_status}
    assert found == {
        "modified": ("Unmodified", "Modified", ""),
        "deleted": ("Unmodified", "Deleted", ""),
        "renamed": ("Renamed", "Unmodified", "former"),
        "new": ("Added", "Unmodified", ""),
        "dir/ü n": ("Untracked", "Untracked", ""),
        "bad\N{REPLACEMENT CHARACTER}": ("Untracked", "Untracked", ""),
        "link": ("Untracked", "Untracked", ""),
    }


def test_an_empty_repository(client: Client, box: Any, server: Repositories) -> None:
    path, copy = new_path(), new_path()
    client.wait(box.git.init(path, initial_branch="trunk"))
    status = client.wait(box.git.status(path))
    assert (status.current_branch, status.detached, status.branch_published) == ("trunk", False, False)
    branches = client.wait(box.git.branches(path))
    assert (branches.branches, branches.current) == ([], "trunk")
    assert client.wait(box.git.remotes(path)).remotes == []
    with pytest.raises(DaytonaConflictError):
        client.wait(box.git.create_branch(path, "x"))
    client.wait(box.git.init(f"{path}-bare", bare=True))
    home = client.wait(box.get_work_dir())
    client.wait(box.git.clone(f"{home}/{path}-bare", copy))
    client.wait(box.fs.upload_file(b"x", f"{copy}/x"))
    client.wait(box.git.add(copy, ["."]))
    sha = client.wait(box.git.commit(copy, "first", "a", "e@x")).sha
    client.wait(box.git.push(copy, set_upstream=True))
    assert server.shell(f"git -C {path}-bare rev-parse HEAD").strip() == sha


def test_add_and_commit(work: Work) -> None:
    for name in ("*.txt", "y.txt", "-dash", "with space"):
        work.write(name, name)
    work.do("add", ["*.txt", "-dash", "with space"])
    message = "subject\n\n# not a comment\n-- ü 漢\n"
    sha = work.do("commit", message, "Ünï O'Neill", "u@example.com").sha
    assert work.shell("git log -1 --format='%H %an <%ae> %cn <%ce>'").strip() == (
        f"{sha} Ünï O'Neill <u@example.com> Ünï O'Neill <u@example.com>"
    )
    assert work.shell("git log -1 --format=%B").strip() == message.strip()
    assert work.shell("git show --name-only --format= HEAD").split("\n")[:3] == ["*.txt", "-dash", "with space"]
    with pytest.raises(DaytonaBadRequestError, match="staged"):
        work.do("commit", "nothing", "a", "e@x")
    assert work.do("commit", "nothing", "a", "e@x", allow_empty=True).sha != sha
    for message, author, email in [(" \n", "a", "e"), ("m", "<>", "e"), ("m", "a\nb", "e"), ("m", "a", ""), ("m\0", "a", "e")]:
        with pytest.raises(DaytonaBadRequestError):
            work.do("commit", message, author, email, allow_empty=True)
    for files in ([], [""], ["../x"], ["/etc/passwd"]):
        with pytest.raises(DaytonaBadRequestError):
            work.do("add", files)
    with pytest.raises(DaytonaNotFoundError, match="none"):
        work.do("add", ["none"])
    work.shell("printf '#!/bin/sh\\necho house rules >&2; exit 1\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit")
    with pytest.raises(DaytonaUnprocessableEntityError, match="house rules"):
        work.do("commit", "m", "a", "e", allow_empty=True)


def test_history(work: Work, toolbox: httpx.Client) -> None:
    sha = work.commit("a", "a")
    answer = toolbox.get("/git/history", params={"path": work.path})
    assert answer.status_code == 200, answer.text
    assert [each["message"] for each in answer.json()] == ["change a\n", "first\n"]
    newest = answer.json()[0]
    assert (newest["hash"], newest["author"], newest["email"]) == (sha, "Ünï O'Neill", "u@example.com")
    assert "T" in newest["timestamp"]


def test_branches(work: Work) -> None:
    work.do("create_branch", "feature/x")
    found = work.do("branches")
    assert (found.branches, found.current) == (["feature/x", "main"], "main")
    work.do("checkout_branch", "feature/x")
    status = work.do("status")
    assert (status.current_branch, status.branch_published, status.upstream) == ("feature/x", False, "")
    with pytest.raises(DaytonaGitBranchExistsError):
        work.do("create_branch", "main")
    for name in ("-D", "a b", "", "a..b", "HEAD"):
        with pytest.raises(DaytonaBadRequestError):
            work.do("create_branch", name)
    with pytest.raises(DaytonaConflictError):
        work.do("delete_branch", "feature/x")
    for wrong in ("none", "file"):
        with pytest.raises(DaytonaGitBranchNotFoundError):
            work.do("checkout_branch", wrong)
    with pytest.raises(DaytonaBadRequestError):
        work.do("checkout_branch", "--orphan=x")
    work.commit("file", "theirs")
    work.do("checkout_branch", "main")
    work.write("file", "dirty")
    with pytest.raises(DaytonaGitDirtyWorktreeError):
        work.do("checkout_branch", "feature/x")
    work.do("delete_branch", "feature/x")
    with pytest.raises(DaytonaGitBranchNotFoundError):
        work.do("delete_branch", "feature/x")
    work.do("checkout_branch", work.shell("git rev-parse HEAD").strip())
    assert not work.do("branches").current


def test_reset_and_restore(work: Work) -> None:
    work.commit("file", "two\n")
    work.write("file", "three\n")
    work.do("add", ["file"])
    work.do("reset", files=["file"])
    assert work.shell("git diff --cached --name-only") == ""
    work.do("restore", ["file"])
    assert work.shell("cat file") == "two\n"
    work.write("file", "four\n")
    with pytest.raises(DaytonaGitDirtyWorktreeError):
        work.do("reset", mode="keep", target="HEAD~1")
    work.do("add", ["file"])
    work.do("restore", ["file"], staged=True)
    assert (work.shell("git diff --cached --name-only"), work.shell("cat file")) == ("", "four\n")
    work.do("restore", ["file"], staged=True, worktree=True, source="HEAD~1")
    assert work.shell("cat file; git show :file") == "one\none\n"
    work.do("reset", mode="soft", target="HEAD~1")
    work.do("reset", mode="mixed")
    work.do("reset", mode="hard", target="origin/main")
    assert work.do("status").file_status == []
    for wrong in ({"mode": "gentle"}, {"mode": "hard", "files": ["file"]}, {"target": "--hard"}):
        with pytest.raises(DaytonaBadRequestError):
            work.do("reset", **wrong)
    with pytest.raises(DaytonaNotFoundError):
        work.do("reset", target="none")
    with pytest.raises(DaytonaNotFoundError):
        work.do("restore", ["none"])
    with pytest.raises(DaytonaBadRequestError):
        work.do("restore", ["file"], staged=False, worktree=False)


def test_remotes(work: Work, server: Repositories) -> None:
    url = server.url("open", work.name)
    work.do("remote_add", "up", url, fetch=True)
    assert work.shell("git rev-parse up/main") == work.shell("git rev-parse main")
    with pytest.raises(DaytonaConflictError):
        work.do("remote_add", "up", "https://example.com/x.git")
    work.do("remote_add", "up", "https://example.com/x.git", overwrite=True)
    found = {each.name: each.url for each in work.do("remotes").remotes}
    assert found == {"origin": url, "up": "https://example.com/x.git"}
    assert work.do("remote_get", "none") is None
    with pytest.raises(DaytonaGitRepoNotFoundError):
        work.do("remote_add", "bad", server.url("open", "none.git"), fetch=True)
    assert work.do("remote_get", "bad") is None
    for name, where in [("n", "ext::sh -c id"), ("-f", url), ("a:b", url), ("n", "-x"), ("n", "ftp://host/x")]:
        with pytest.raises(DaytonaBadRequestError):
            work.do("remote_add", name, where)


def test_push_and_pull(work: Work) -> None:
    other = work.other()
    sha = work.commit("a", "a")
    work.do("push")
    work.do("push")
    work.do("create_branch", "topic")
    work.do("push", branch="topic", remote="origin", set_upstream=True)
    work.do("checkout_branch", "topic")
    assert work.do("status").upstream == "origin/topic"
    other.do("pull")
    other.do("pull")
    assert other.shell("git rev-parse HEAD").strip() == sha
    other.do("pull", branch="topic", remote="origin")
    with pytest.raises(DaytonaGitBranchNotFoundError):
        other.do("push", branch="none")
    with pytest.raises(DaytonaGitBranchNotFoundError):
        other.do("pull", branch="none")
    for method in ("push", "pull"):
        with pytest.raises(DaytonaGitRepoNotFoundError):
            other.do(method, branch="main", remote="none")
        with pytest.raises(DaytonaBadRequestError):
            other.do(method, remote="ext::sh -c id")
    other.shell("git checkout -q --detach")
    with pytest.raises(DaytonaBadRequestError, match="detached"):
        other.do("push")


def test_a_push_that_is_behind_and_one_that_a_hook_declines(work: Work) -> None:
    other = work.other()
    work.commit("a", "a")
    work.do("push")
    other.commit("b", "b")
    with pytest.raises(DaytonaGitPushRejectedError):
        other.do("push")
    other.do("pull")
    assert other.do("status").ahead == 2, "the commit and the merge"
    hook = f"{work.server.root}/{work.name}/hooks/pre-receive"
    other.shell(f"printf '#!/bin/sh\\necho house rules >&2; exit 1\\n' > {hook}; chmod +x {hook}")
    with pytest.raises(DaytonaGitRemoteRejectedError, match="house rules"):
        other.do("push")


def test_a_pull_over_changes_and_a_conflict(work: Work) -> None:
    other = work.other()
    work.commit("file", "theirs\n")
    work.do("push")
    other.write("file", "mine\n")
    with pytest.raises(DaytonaGitDirtyWorktreeError):
        other.do("pull")
    other.commit("file", "mine\n")
    for _ in range(2):
        with pytest.raises(DaytonaGitMergeConflictError):
            other.do("pull")
    (conflict,) = other.do("status").file_status
    assert (conflict.name, conflict.staging.value, conflict.worktree.value, conflict.extra) == (
        "file", "Updated but unmerged", "Updated but unmerged", "both modified",
    )  # fmt: skip
    with pytest.raises(DaytonaGitMergeConflictError):
        other.do("commit", "m", "a", "e@x")
    other.commit("file", "both\n")
    other.do("push")
    assert other.do("status").file_status == []


def test_configuration(client: Client, box: Any, work: Work) -> None:
    git, key = box.git, f"martlet-{client.flavor}.x"
    assert client.wait(git.get_config(key)) is None
    value = "-x = \"ü\"\n# second line"
    client.wait(git.set_config(key, value))
    assert client.wait(git.get_config(key)) == value
    assert client.wait(git.get_config(key, scope="local", path=work.path)) is None
    client.wait(git.set_config(key, "", scope="local", path=work.path))
    assert client.wait(git.get_config(key, scope="local", path=work.path)) == ""
    client.wait(git.configure_user("Ü N", "u@x", scope="local", path=work.path))
    assert work.shell("git config --local user.name; git config --local user.email") == "Ü N\nu@x\n"
    client.wait(git.configure_user("G N", "g@x"))
    assert client.wait(git.get_config("user.name")) == "G N"
    for arguments in [("--list", "x"), ("nokey", "x"), ("a.b\nc.d", "x"), ("a.b", "x\0")]:
        with pytest.raises(DaytonaBadRequestError):
            client.wait(git.set_config(*arguments))
    for more in ({"scope": "local"}, {"scope": "worktree"}):
        with pytest.raises(DaytonaBadRequestError):
            client.wait(git.set_config("a.b", "x", **more))
    with pytest.raises(DaytonaGitRepoNotFoundError):
        client.wait(git.set_config("a.b", "x", scope="local", path="/tmp"))
    if work.shell("id -u").strip() != "0":
        with pytest.raises(DaytonaForbiddenError):
            client.wait(git.set_config("a.b", "x", scope="system"))


def test_stored_credentials(client: Client, box: Any, work: Work, server: Repositories) -> None:
    try:
        host = f"127.0.0.1:{server.port}"
        client.wait(box.git.dangerously_authenticate(USER, PASSWORD, host=host, protocol="http"))
        path = new_path()
        client.wait(box.git.clone(server.url("private", work.name), path))
        with pytest.raises(DaytonaGitAuthFailedError):
            client.wait(box.git.pull(path, username=USER, password="wrong"))
        client.wait(box.git.pull(path))
        client.wait(box.git.dangerously_authenticate("u", "p"))
        assert "https://u:p@github.com" in server.shell("cat ~/.git-credentials").split()
        assert server.shell("git config --global --get-all credential.helper") == "store\n"
        assert server.shell("stat -c %a ~/.git-credentials") == "600\n"
        for wrong in ({"host": "a/b"}, {"host": "h\nx"}, {"protocol": "ssh"}):
            with pytest.raises(DaytonaBadRequestError):
                client.wait(box.git.dangerously_authenticate("u", "p", **wrong))
    finally:
        server.shell("rm -f ~/.git-credentials; git config --global --unset-all credential.helper || true")


def test_only_the_root_of_a_repository_is_one(client: Client, box: Any, work: Work, toolbox: httpx.Client) -> None:
    work.shell("mkdir -p sub")
    for path in (f"{work.path}/sub", f"{work.path}/file", "/no/such/place", "/"):
        with pytest.raises(DaytonaGitRepoNotFoundError):
            client.wait(box.git.status(path))
    check_error(toolbox.get("/git/status"), 400, "path")
    check_error(toolbox.post("/git/clone", json={"url": "https://h/x"}), 400, "path", code="INVALID_REQUEST_BODY")


def test_a_client_that_leaves_ends_git(work: Work, server: Repositories, toolbox: httpx.Client) -> None:
    path = new_path()
    with pytest.raises(httpx.ReadTimeout):
        toolbox.post("/git/clone", json={"url": server.url("stalled", work.name), "path": path}, timeout=1)
    eventually(lambda: server.shell("pgrep -fc 'stalle[d]/' || true") == "0\n", 45, "git to end")
    eventually(lambda: server.shell(f"ls -d {path} 2>/dev/null || true") == "", 30, "half a clone to be removed")
