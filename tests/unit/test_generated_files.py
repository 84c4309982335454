from kd_offline.generated_files import GeneratedFolder


def made(**texts):
    return GeneratedFolder(
        lambda: {f"{name}.txt": text for name, text in texts.items()},
        "*.txt",
        "words",
        keeps=lambda name: name.startswith("old-"),
    )


def test_writing_and_checking(tmp_path, capsys):
    folder = tmp_path / "words"
    both = made(a="A\n", b="B\n")
    assert both.main(["--check", str(folder)]) == 1
    assert capsys.readouterr().err == "not in step: a.txt, b.txt; run make words\n"
    assert both.main(["--write", str(folder)]) == 0
    assert both.stale(folder) == []
    (folder / "old-a.txt").write_text("of a former version")
    (folder / "gone.txt").write_text("of nothing any more")
    (folder / "README.md").write_text("ours alone")
    (folder / "b.txt").write_text("altered")
    assert both.stale(folder) == ["b.txt", "gone.txt"]
    made(a="A\n").write(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "a.txt", "old-a.txt"]
