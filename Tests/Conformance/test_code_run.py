"""Running code: three languages, arguments, errors, time-outs, charts."""

from __future__ import annotations

import base64
from typing import Any, Iterator

import httpx
import pytest
from daytona import (
    BarChart,
    BoxAndWhiskerChart,
    CodeRunParams,
    CompositeChart,
    LineChart,
    PieChart,
    ScatterChart,
)

from Rig import wire
from Rig.environment import Environment
from Rig.sandboxes import Client, Sandboxes
from Rig.waiting import eventually
from Rig.wire import check_error


@pytest.fixture(scope="module")
def toolbox(shared: Any, environment: Environment) -> Iterator[httpx.Client]:
    with wire.client(f"{shared.toolbox_proxy_url}/{shared.id}", environment.api_key) as made:
        yield made


@pytest.fixture(scope="module", params=["javascript", "typescript"])
def script_box(request: pytest.FixtureRequest, sandboxes: Sandboxes) -> Iterator[Any]:
    made = sandboxes.create(language=request.param, auto_stop_interval=0)
    yield made
    sandboxes.remove([made.id])


def test_python(client: Client, box: Any) -> None:
    done = client.wait(box.process.code_run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint(1 + 1)"))
    assert (done.exit_code, done.result) == (0, "out\nerr\n2\n")
    assert done.artifacts.charts == []


def test_arguments_and_environment(client: Client, box: Any) -> None:
    code = "import os, sys\nprint(sys.argv[1:], os.environ['A'])"
    done = client.wait(box.process.code_run(code, CodeRunParams(argv=["one", "two three", "--flag"], env={"A": "b c"})))
    assert done.result == "['one', 'two three', '--flag'] b c\n"


def test_an_exception_is_shown_with_its_place(client: Client, box: Any) -> None:
    done = client.wait(box.process.code_run("x = 1\n\nraise ValueError('the reason')\n"))
    assert done.exit_code == 1
    assert "Traceback" in done.result and "ValueError: the reason" in done.result and "line 3" in done.result
    syntax = client.wait(box.process.code_run("def broken(:\n"))
    assert syntax.exit_code == 1 and "SyntaxError" in syntax.result
    assert client.wait(box.process.code_run("import sys; sys.exit(42)")).exit_code == 42


def test_code_is_taken_as_it_is(client: Client, box: Any) -> None:
    code = "print('''$HOME `id` \\\\ \"q\" 漢 ' ''')\nif __name__ == '__main__':\n    print('main')\n" + "# pad\n" * 50_000
    assert client.wait(box.process.code_run(code)).result == "$HOME `id` \\ \"q\" 漢 ' \nmain\n"


def test_a_timeout_ends_the_code(client: Client, box: Any, toolbox: httpx.Client) -> None:
    body = {"code": "print('before', flush=True)\nimport time\ntime.sleep(60)", "language": "python", "timeout": 1}
    check_error(toolbox.post("/process/code-run", json=body), 408, code="PROCESS_EXECUTION_TIMEOUT")
    # The SDK does not translate errors of this call; what it raises has the status.
    with pytest.raises(Exception) as raised:
        client.wait(box.process.code_run("while True: pass", timeout=1))
    assert getattr(raised.value, "status", None) == 408
    eventually(lambda: client.wait(box.process.exec("pgrep -c python3 || true")).result.strip() == "0", 20, "the code to be gone")


def test_javascript_and_typescript(script_box: Any) -> None:
    kind = script_box.labels["code-toolbox-language"]
    typed = "interface Point { x: number }\nconst p: Point = { x: 41 }\nconsole.log(p.x + 1)"
    code = typed if kind == "typescript" else "const p = { x: 41 }\nconsole.log(p.x + 1)"
    done = script_box.process.code_run(code + "\nconsole.error('err')\nconst os = require('os')\nconsole.log(typeof os.cpus)")
    assert (done.exit_code, done.result) == (0, "42\nerr\nfunction\n")
    seen = script_box.process.code_run(
        "console.log(JSON.stringify(process.argv.slice(1)), process.env.A)", CodeRunParams(argv=["a", "b c"], env={"A": "1"})
    )
    assert seen.result == '["a","b c"] 1\n'
    thrown = script_box.process.code_run("function f() { throw new Error('the reason') }\nf()")
    assert thrown.exit_code == 1 and "the reason" in thrown.result
    assert script_box.process.code_run("process.exit(9)").exit_code == 9
    syntax = script_box.process.code_run("const = 3")
    assert syntax.exit_code != 0 and syntax.result


def test_languages(toolbox: httpx.Client) -> None:
    """A fork of a sandbox without the label sends ""; that is Python. Anything unknown is named."""
    assert toolbox.post("/process/code-run", json={"code": "print(1)", "language": ""}).json()["result"] == "1\n"
    check_error(toolbox.post("/process/code-run", json={"code": "x", "language": "cobol"}), 400, "cobol")
    check_error(toolbox.post("/process/code-run", json={"language": "python"}), 400, "code")


def chart(client: Client, box: Any, body: str) -> Any:
    code = "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\nprint('before')\n" + body + "\nprint('after')"
    done = client.wait(box.process.code_run(code))
    assert done.exit_code == 0, done.result
    assert done.result == "before\nafter\n", "the marker lines of charts must not be seen"
    assert len(done.artifacts.charts) == 1
    only = done.artifacts.charts[0]
    assert base64.b64decode(only.png).startswith(b"\x89PNG")
    return only


def test_line_chart(client: Client, box: Any) -> None:
    seen = chart(
        client, box,
        "plt.plot([1, 2, 3], [10, 20, 15], label='first')\nplt.plot([1, 2, 3], [1, 2, 3], label='second')\n"
        "plt.title('Lines'); plt.xlabel('time'); plt.ylabel('value'); plt.legend(); plt.show()",
    )
    assert isinstance(seen, LineChart) and seen.type == "line"
    assert (seen.title, seen.x_label, seen.y_label, seen.x_scale, seen.y_scale) == ("Lines", "time", "value", "linear", "linear")
    assert [each.label for each in seen.elements] == ["first", "second"]
    assert seen.elements[0].points == [[1, 10], [2, 20], [3, 15]]
    assert seen.x_ticks and len(seen.x_ticks) == len(seen.x_tick_labels)


def test_scatter_chart(client: Client, box: Any) -> None:
    seen = chart(client, box, "plt.scatter([1, 2], [3, 4], label='dots')\nplt.title('Dots')\nplt.yscale('log')\nplt.show()")
    assert isinstance(seen, ScatterChart)
    assert seen.elements[0].label == "dots" and seen.elements[0].points == [[1, 3], [2, 4]]
    assert seen.y_scale == "log"


def test_bar_chart(client: Client, box: Any) -> None:
    seen = chart(client, box, "plt.bar(['a', 'b', 'c'], [5, 7, 9], label='sold')\nplt.title('Bars')\nplt.show()")
    assert isinstance(seen, BarChart)
    assert [(each.label, float(each.value)) for each in seen.elements] == [("a", 5), ("b", 7), ("c", 9)]
    assert {each.group for each in seen.elements} == {"sold"}


def test_pie_chart(client: Client, box: Any) -> None:
    seen = chart(client, box, "plt.pie([25, 75], labels=['quarter', 'rest'])\nplt.title('Pie')\nplt.show()")
    assert isinstance(seen, PieChart)
    assert [each.label for each in seen.elements] == ["quarter", "rest"]
    assert [round(each.angle) for each in seen.elements] == [90, 270]
    assert all(each.radius == 1 for each in seen.elements)


def test_box_chart(client: Client, box: Any) -> None:
    seen = chart(client, box, "plt.boxplot([[1, 2, 3, 4, 5, 30], [2, 4, 6]])\nplt.title('Boxes')\nplt.show()")
    assert isinstance(seen, BoxAndWhiskerChart) and len(seen.elements) == 2
    first = seen.elements[0]
    assert (first.min, first.median, first.max, first.outliers) == (1, 3.5, 5, [30])
    assert first.first_quartile < first.median < first.third_quartile


def test_composite_chart(client: Client, box: Any) -> None:
    seen = chart(
        client, box,
        "figure, (left, right) = plt.subplots(1, 2)\nleft.plot([1, 2], [3, 4]); left.set_title('Left')\n"
        "right.bar(['a'], [1]); right.set_title('Right')\nfigure.suptitle('Both')\nplt.show()",
    )
    assert isinstance(seen, CompositeChart) and seen.title == "Both"
    assert [(each.type, each.title) for each in seen.elements] == [("line", "Left"), ("bar", "Right")]


def test_every_figure_is_a_chart_and_none_without_show(client: Client, box: Any) -> None:
    code = "import matplotlib.pyplot as plt\nfor n in range(3):\n    plt.figure(); plt.plot([n, n + 1]); plt.title(str(n))\n"
    assert client.wait(box.process.code_run(code)).artifacts.charts == []
    shown = client.wait(box.process.code_run(code + "plt.show()"))
    assert [each.title for each in shown.artifacts.charts] == ["0", "1", "2"]


def test_a_forged_chart_line_harms_nobody(client: Client, box: Any) -> None:
    """The marker is no secret: what a program prints itself is at worst shown or dropped, never a crash."""
    for line in ("dtn_artifact_k39fd2:{", 'dtn_artifact_k39fd2:{"type":"chart","value":7}', "dtn_artifact_k39fd2:"):
        assert client.wait(box.process.code_run(f"print({line!r})\nprint('end')")).result.endswith("end\n")
