"""What commands print: nothing is cut, nothing is taken for markup."""

import io
import json

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from services.cli import output

pytestmark = pytest.mark.unit

UIDS = st.from_regex(r"[0-9.]{64}", fullmatch=True)


@given(uids=st.lists(UIDS, min_size=1, max_size=5), width=st.integers(40, 300))
def test_a_table_holds_every_character_at_any_width(uids: list[str], width: int) -> None:
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "out", Console(file=file, width=width, soft_wrap=True))
        output.print_table("Studies", ("study",), [(uid,) for uid in uids], empty="none")
    lines = [line.strip() for line in file.getvalue().splitlines()[2:]]
    assert "".join(lines) == "".join(uids)


@pytest.mark.parametrize("text", ["[red]x[/]", "[/]", "[link=x]", "a\\[b]", ":smile:"])
def test_what_looks_like_markup_is_data(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table("Rules", ("rule",), [(text,)], empty="none")
    with pytest.raises(typer.Exit):
        output.fail(text, text, code=1, json_output=False, problem={"problems": [{"file": text, "message": text}]})
    printed = capsys.readouterr()
    assert text in printed.out
    assert printed.err.count(text) == 4


def test_a_failure_as_json_is_one_document_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        output.fail("Refused.", "Ask.", code=4, json_output=True, problem={"status": 403})
    printed = capsys.readouterr()
    assert ended.value.exit_code == 4
    assert not printed.out
    assert json.loads(printed.err) == {"error": "Refused.", "advice": "Ask.", "status": 403}


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")]
)
def test_sizes(size: float, text: str) -> None:
    assert output.in_bytes(size) == text
