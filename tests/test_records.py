"""Files that a kill cannot spoil, and long jobs that go on."""

import json

import pytest

from plumbing import InputError
from plumbing.records import append, fill_record, read_lines, read_record, write_aside


def test_a_record_goes_on_where_it_was_cut(tmp_path):
    """The second chunk of three is interrupted; another job's lines in the file stay."""
    file, calls = tmp_path / "bank.jsonl", []

    def work(items, start):
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [{"item": item, "found": item % 2} for item in items]

    fill_record(file, [100], lambda items, start: [{"item": items[0], "found": 1}], 1, lambda line: line["found"], chunk=2, generation=0)
    fill = lambda: fill_record(file, list(range(6)), work, 9, lambda line: line["found"], chunk=2, generation=1)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        fill()
    with open(file, "a") as half_a_line:
        half_a_line.write('{"generation": 1, "item": 4, "found": 0}\n{"generation": 1, "it')
    assert [line["item"] for line in fill()] == [0, 1, 2, 3, 4, 5]
    assert calls == [0, 2, 4, 4]  # nothing that was whole is done again
    assert [json.loads(line)["item"] for line in file.read_text().splitlines()] == [100, 0, 1, 2, 3, 4, 5]
    assert fill_record(file, list(range(6)), work, 1, lambda line: line["found"], chunk=2, generation=1)[-1]["item"] == 5 and len(calls) == 4


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"')
    with pytest.raises(InputError, match="rows.jsonl line 3: cannot be read"):
        read_record(tmp_path / "rows.jsonl")
    assert read_lines(tmp_path / "rows.jsonl") == [{"a": 1}, {"a": 2}] and read_lines(tmp_path / "none.jsonl") == []
    with pytest.raises(InputError, match="holds no line that can be read"):
        read_record(tmp_path / "none.jsonl")


@pytest.mark.parametrize("behind", [b"\xff\xfe\n", b"[1]\n", b"5\n", b"{\n", b"[" * 100_000])
def test_a_line_that_is_no_row_ends_what_is_read(tmp_path, behind):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n' + behind + b'{"a": 2}\n')
    assert read_lines(tmp_path / "rows.jsonl") == [{"a": 1}]
    with pytest.raises(InputError, match="line 2: cannot be read"):
        read_record(tmp_path / "rows.jsonl")


def test_a_disk_that_is_full_is_one_line_and_leaves_the_old_file(tmp_path):
    """/dev/full takes nothing."""
    write_aside(tmp_path / "a.json", "old")
    (tmp_path / "a.json.partial").symlink_to("/dev/full")
    (tmp_path / "b.jsonl").symlink_to("/dev/full")
    for work in (lambda: write_aside(tmp_path / "a.json", "new"), lambda: append(tmp_path / "b.jsonl", [{}])):
        with pytest.raises(InputError, match="cannot be written .*No space left.*make room and continue with --resume"):
            work()
    assert (tmp_path / "a.json").read_text() == "old" and not (tmp_path / "a.json.partial").is_symlink()
