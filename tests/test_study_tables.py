"""The study's tables, trends and figures from folders of runs: arithmetic, gaps, marks, and the page."""

import csv
import json
import shutil
import statistics

import cv2
import pytest
from conftest import draw, run
from test_evaluate import call, make_run

from common.errors import InputError
from evaluation.scoring import read_config
from evaluation.study import published, study_tables, trends
from evaluation.study.schematic import pretraining
from evaluation.tables import collect, demo_scores, latex, overview, write_study
from training.configuration import digest_of
from training.experiments import EXPERIMENTS, FACTS, read_experiments

STUDY = read_experiments()


def write_run(root, experiment, fold, **config):
    """A run's config.json with the study's values."""
    folder = root / experiment / f"fold{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in STUDY[experiment].items() if key not in FACTS}
    config = {"experiment": experiment, "fold": fold, "iterations": 10, "data": "stores", **values, **config}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_score(root, experiment, fold, domain, miou, checkpoint="last", variant="plain", **facts):
    """A score.json of a finished run; `folder` says where, if not in the run's own."""
    names = [domain, *([checkpoint] if checkpoint != "last" else []), *([variant] if variant != "plain" else [])]
    folder = facts.pop("folder", root / experiment / f"fold{fold}" / "evaluation" / ".".join(names))
    folder.mkdir(parents=True)
    score = {"domain": domain, "variant": variant, "experiment": experiment, "fold": fold, "checkpoint": checkpoint}
    score |= {"configuration": "abc", "step": 10, "miou": miou, "rdt": None, "store_fingerprint": "f", "target": None}
    score |= {"phase_fraction_predicted": 0.5, "phase_fraction_label": 0.4}
    score["iou"] = {"background": 0.1, "foreground": 0.1}
    score["runs"] = [str(root / experiment / f"fold{fold}")]
    (folder / "score.json").write_text(json.dumps(score | facts))


def write_folds(root, experiment, mious, **config):
    """Runs of an experiment and their scores: {domain: mIoU of each fold, None for none}."""
    for domain, values in mious.items():
        for fold, miou in enumerate(values):
            write_run(root, experiment, fold, **config)
            if miou is not None:
                write_score(root, experiment, fold, domain, miou)


def row_of(table, experiment):
    return next(r for r in table.rows if any(cell.removesuffix(study_tables.OTHER) == experiment for cell in r))


def record_of(table, experiment):
    return next(record for record in table.records if record["experiment"] == experiment)


def opened(root):
    return published.StudyRuns(root, EXPERIMENTS)


def test_the_studys_facts_fit_the_experiments():
    lines = published.findings()
    counts = {number: len(published.findings(number)) for number in range(2, 7)}
    assert counts == {2: 10, 3: 11, 4: 11, 5: 2, 6: 9} and len(lines) == 43
    for line in lines:
        values = STUDY[line.experiment]
        values = STUDY[values["run"]] | {"domain": values["domain"]} if "run" in values else values
        assert (line.model, line.pretraining, line.augmentation) == (
            values["model"], values["pretraining"], values["augmentation"],
        ), line  # fmt: skip
        assert line.epochs == (100 if line.table == 6 else values["epochs"])
        assert line.domain == values.get("domain", values.get("target", "source"))
        assert 40 < line.miou < 90 and (line.rdt is None) == (line.table == 2)
    assert published.phase_fractions()["t3"] == {
        "phi_dg": 51.3, "phi_dg_std": 21.8, "phi_uda": 42.8, "phi_uda_std": 2.6, "phi_label": 44.6,
    }  # fmt: skip
    assert published.of_the_text("bagging")["T2.11"] == (70.2, None)
    assert published.of_the_text("common") == {"T3.2": (78.0, 1.0), "T3v": (77.4, 1.8)}


def test_the_studys_rdt_follow_from_its_means_but_for_two():
    assert [(line.experiment, round(follows, 1)) for line, follows in published.inconsistent()] == [
        ("T1.3", -6.6), ("T2.3", -33.3),
    ]  # fmt: skip


def test_mean_deviation_and_rdt_over_folds(tmp_path):
    target, source = [0.61, 0.67, 0.7], [0.8, 0.78, 0.9]
    write_folds(tmp_path, "S.4", {"t2": target, "source": source})
    runs = opened(tmp_path)
    table = study_tables.of_target(runs, 4)
    row, record = row_of(table, "T2.4"), record_of(table, "T2.4")
    mean, std = 100 * statistics.mean(target), 100 * statistics.stdev(target)
    relative = 100 * (statistics.mean(target) / statistics.mean(source) - 1)
    assert row[4:] == [f"{mean:.1f} ± {std:.1f}", "58.1 ± 2.4", f"{relative:.1f}", "-23.7", "3"]
    assert record["miou"] == pytest.approx(mean, abs=1e-3) and record["rdt"] == pytest.approx(relative, abs=1e-3)
    assert record["run"] == "S.4" and record["differs"] == "" and not table.deviation
    assert row_of(study_tables.supervised(runs), "S.4")[4] == f"{100 * statistics.mean(source):.1f} ± 6.4"


def test_rdt_compares_the_folds_that_both_have(tmp_path):
    write_folds(tmp_path, "S.4", {"t2": [0.6, 0.6, None], "source": [None, 0.8, 0.9]})
    assert record_of(study_tables.of_target(opened(tmp_path), 4), "T2.4")["rdt"] == pytest.approx(-25)
    write_folds(tmp_path, "S.5", {"t2": [0.6, None], "source": [None, 0.8]})
    assert record_of(study_tables.of_target(opened(tmp_path), 4), "T2.5")["rdt"] is None


def test_what_was_not_run_is_empty(tmp_path):
    write_folds(tmp_path, "S.4", {"source": [0.8]})
    for table in study_tables.study_tables(opened(tmp_path)):
        for row, record in zip(table.rows, table.records, strict=True):
            if "S.4" in row:
                continue
            ours = {key: value for key, value in record.items() if "study" not in key and "epochs" not in key}
            assert not any(isinstance(value, float) for value in ours.values()), (table.name, row)
            assert row[-1] == "" and len(row) == len(table.header)
    assert row_of(study_tables.supervised(opened(tmp_path)), "S.4")[4] == "80.0", "one fold has no deviation"


def test_other_statistics_and_checkpoints_are_never_mixed_in(tmp_path):
    write_folds(tmp_path, "S.4", {"t2": [0.6, 0.6], "source": [0.8, 0.8]})
    before = [table.rows for table in study_tables.study_tables(opened(tmp_path))]
    for checkpoint, variant in (("last", "adabn"), ("best", "plain"), ("last", "otsu"), ("last", "selected-x")):
        write_score(tmp_path, "S.4", 0, "t2", 0.01, checkpoint, variant)
    write_score(tmp_path, "S.4", 0, "t3", 0.01, "best", folder=tmp_path / "S.4/fold0/evaluation/t1")
    runs = opened(tmp_path)
    assert [table.rows for table in study_tables.study_tables(runs)] == before
    assert any("best" in remark for remark in runs.remarks)


def test_an_unfinished_run_is_left_out_and_named(tmp_path):
    write_folds(tmp_path, "S.4", {"source": [0.8, 0.7]})
    write_run(tmp_path, "S.4", 1, iterations=11)
    runs = opened(tmp_path)
    assert record_of(study_tables.supervised(runs), "S.4")["miou"] == 80
    assert any("S.4/fold1" in remark and "of step 10, and" in remark for remark in runs.remarks)


def finish(folder, step, best=1):
    (folder / "finished.json").write_text(json.dumps({"step": step, "best": {"step": best, "miou": 0.5}}))


def test_a_score_of_before_the_end_of_its_run_counts_nowhere(tmp_path):
    """In overview, study tables and ensembles: of a stopped run, of one that went on since, of an old best."""
    write_folds(tmp_path, "S.4", {"t2": [0.6, 0.8, 0.8], "source": [0.7, 0.8, 0.8]}, iterations=60)
    for fold, step in ((0, 6), (1, 60), (2, 60)):
        for domain in ("t2", "source"):
            path = tmp_path / f"S.4/fold{fold}/evaluation/{domain}/score.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"step": step}))
    ensemble = {"folder": tmp_path / "S.4/ensemble.t2", "variant": "ensemble", "step": None, "steps": [6, 60]}
    write_score(tmp_path, "S.4", None, "t2", 0.9, runs=[str(tmp_path / f"S.4/fold{k}") for k in (0, 1)], **ensemble)
    write_score(tmp_path, "S.4", 1, "t2", 0.1, "best", step=5)
    write_score(tmp_path, "S.4", 1, "t2", 0.75, "epoch100", step=5)
    for finished in (False, True):
        if finished:
            finish(tmp_path / "S.4/fold0", 60)
        finish(tmp_path / "S.4/fold1", 60, best=50)
        scores, remarks = collect(tmp_path)
        header, rows = overview(tmp_path, scores)
        cells = {(row[1], row[2]): dict(zip(header, row, strict=True)) for row in rows}
        assert {key: row["t2 mIoU [%]"] for key, row in cells.items()} == {
            ("plain", "last"): "80.0 ± 0.0", ("plain", "epoch100"): "75.0",
        }  # fmt: skip
        assert len(remarks) == 4 and all(" is left out: it is of step " in remark for remark in remarks)
        runs = opened(tmp_path)
        assert sorted(runs.scores("S.4", "t2")) == [1, 2] and runs.bagged("S.4", "t2") is None
        assert set(runs.remarks) < set(remarks)
    finish(tmp_path / "S.4/fold2", 50)  # trained again, for fewer steps
    assert len(collect(tmp_path)[0]) == 3
    shutil.rmtree(tmp_path / "S.4/fold1")
    with pytest.raises(InputError, match=r"no score.json below it that counts; .*fold0/evaluation/source is left out"):
        collect(tmp_path / "S.4")


def test_a_transductive_score_stands_beside_others_under_its_word_alone(tmp_path):
    """In the overview as a variant; not in the study's tables, nor as another method of the demonstration."""
    write_folds(tmp_path, "T3.2", {"t3": [0.7, 0.9]})
    for fold in (0, 1):
        write_score(tmp_path, "T3.2", fold, "t3", 0.6, variant="teacher", transductive=fold == 0)
        write_score(tmp_path / "seed0", "uda", fold, "t3", 0.6, transductive=fold == 0, target="t3")
    write_score(tmp_path / "seed0", "transductive", 0, "t3", 0.5, transductive=True, target="t3")
    write_score(tmp_path / "seed0", "supervised", 0, "source", 0.5)
    place = {"folder": tmp_path / "T3.2/ensemble.t3", "variant": "ensemble"}
    write_score(tmp_path, "T3.2", None, "t3", 0.8, transductive=True, **place)
    path = tmp_path / "T3.2/fold1/evaluation/t3/score.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transductive": True}))
    header, rows = overview(tmp_path, collect(tmp_path)[0])
    at = header.index("t3 mIoU [%]")
    assert {row[1]: row[at] for row in rows if row[0] == "T3.2" and row[at]} == {
        "plain": "70.0", "transductive": "90.0", "teacher": "60.0", "transductive.teacher": "60.0",
        "transductive.ensemble": "80.0",
    }  # fmt: skip
    runs = opened(tmp_path)
    assert list(runs.scores("T3.2", "t3")) == [0] and runs.bagged("T3.2", "t3") is None
    assert all("is left out: it is transductive" in remark for remark in runs.remarks) and len(runs.remarks) == 2
    scores, remarks = demo_scores(tmp_path)
    assert {name: score["seed0"]["fold"] for name, score in scores["t3"].items()} == {"uda": 1, "transductive": 0}
    assert remarks == [f"{tmp_path}/seed0/uda/fold0/evaluation/t3 is left out: it is transductive, and no score of uda"]


def test_scores_on_different_versions_of_a_store_are_told_of(tmp_path):
    write_folds(tmp_path, "S.4", {"source": [0.8, 0.7], "t2": [0.6, 0.5]})
    assert collect(tmp_path)[1] == []
    path = tmp_path / "S.4/fold1/evaluation/t2/score.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_fingerprint": "another"}))
    said = "the runs of S.4 were scored on different versions of t2"
    assert f"remark: {said}\n" in run("-m", "evaluation.tables", tmp_path, "--out", tmp_path / "report").stderr
    assert f"\nRemark: {said}.\n" in (tmp_path / "report/scores.md").read_text()
    assert f"Remark: {said}." in (tmp_path / "report/report.html").read_text()


def test_table_6_takes_the_runs_own_milestones(tmp_path):
    epochs = {"milestones": [3, 6], "milestone_steps": {"5": "epoch3", "10": "epoch6"}, "epochs": 6}
    write_folds(tmp_path, "S.1", {"t2": [0.5, 0.52], "source": [0.8, 0.8]}, **epochs)
    write_folds(tmp_path, "S.3", {"t2": [0.7], "source": [0.9]}, **epochs | {"epochs": 12, "iterations": 20})
    for fold, miou in enumerate((0.4, 0.44)):
        write_score(tmp_path, "S.1", fold, "t2", miou, "epoch3", step=5)
        write_score(tmp_path, "S.1", fold, "source", 0.7, "epoch3", step=5)
    table = study_tables.milestones(opened(tmp_path))
    titles = [title for title in table.header if "mIoU" in title]
    assert titles == ["mIoU after 3 epochs [%]", "mIoU after 6 epochs [%]"]
    first = record_of(table, "T2.1")
    assert (first["first_miou"], first["second_miou"]) == (42, 51), "the last epoch serves as the second milestone"
    assert first["first_rdt"] == pytest.approx(-40) and first["second_rdt"] == pytest.approx(-36.25)
    assert (first["first_study_miou"], first["second_study_miou"]) == (50.1, 51.4)
    assert record_of(table, "T2.3")["second_miou"] is None, "its last model is of more epochs"
    footnote = next(note for note in table.notes if note.startswith("T2.3"))
    assert "400 epochs" in footnote and "52.5 ± 8.5" in footnote


def test_phase_fractions_of_both_methods(tmp_path):
    for fold, (of_dg, of_uda) in enumerate(((0.2, 0.41), (0.6, 0.43))):
        write_run(tmp_path, "S.10", fold)
        write_run(tmp_path, "T3.2", fold)
        write_score(tmp_path, "S.10", fold, "t3", 0.5, phase_fraction_predicted=of_dg)
        write_score(tmp_path, "T3.2", fold, "t3", 0.7, phase_fraction_predicted=of_uda)
    row = row_of(study_tables.fractions(opened(tmp_path)), "t3")
    assert row[1:] == ["T3.1, T3.2", "40.0 ± 28.3", "51.3 ± 21.8", "42.0 ± 1.4", "42.8 ± 2.6", "40.0", "44.6", "2, 2"]


def test_bagging_stands_beside_the_mean_of_its_members(tmp_path):
    write_folds(tmp_path, "T3.2", {"t3": [0.7, 0.74, 0.99], "source": [0.8]})
    members = [str(tmp_path / "T3.2" / f"fold{fold}") for fold in (0, 1)]
    place = {"folder": tmp_path / "T3.2/ensemble.t3", "variant": "ensemble", "runs": members}
    write_score(tmp_path, "T3.2", None, "t3", 0.75, **place)
    record = record_of(study_tables.bagging(opened(tmp_path)), "T3.2")
    assert (record["members_miou"], record["bagged_miou"], record["gain"]) == (72, 75, pytest.approx(3))
    assert record["study_bagged_miou"] == 75.0 and record["members"] == 2
    assert record_of(study_tables.source_scores(opened(tmp_path)), "T3.2")["miou"] == 80
    (tmp_path / "T3.2/fold1/evaluation/t3/score.json").unlink()
    record = record_of(study_tables.bagging(opened(tmp_path)), "T3.2")
    assert record["members_miou"] is None and record["gain"] is None and record["bagged_miou"] == 75


def test_t3_and_t3v_on_their_common_test_set(tmp_path):
    for experiment, miou in (("T3.2", 0.7), ("T3v", 0.6)):
        write_folds(tmp_path, experiment, {"t3": [0.1]})
        write_score(tmp_path, experiment, 0, "t3", miou, variant="selected-t3v")
        write_score(tmp_path, experiment, 1, "t3", 0.9, variant="selected-other")
    table = study_tables.common_test_set(opened(tmp_path))
    assert [row[2:4] for row in table.rows] == [["70.0", "78.0 ± 1.0"], ["60.0", "77.4 ± 1.8"]]


def test_runs_of_another_configuration_are_marked(tmp_path):
    for experiment in ("S.1", "S.2", "S.4"):
        write_folds(tmp_path, experiment, {"source": [0.8]}, model="deeplabv2_small")
    write_folds(tmp_path, "S.3", {"source": [0.8]}, weight_decay=0.1, seed=7)
    write_folds(tmp_path, "S.7", {"source": [0.8]}, pretraining=str(tmp_path / "NanoSEM/encoder.pt"))
    write_folds(tmp_path, "S.5", {"source": [0.8]}, pretraining=str(tmp_path / "ImageNet/encoder.pt"))
    write_folds(tmp_path, "S.10", {"source": [0.8]}, steps=30)
    table = study_tables.supervised(opened(tmp_path))
    assert [row[3] for row in table.rows if row[4]] == ["S.1†", "S.2†", "S.3†", "S.4†", "S.5†", "S.7", "S.10†"]
    assert "model deeplabv2_small instead of unet_vgg16 (S.1, S.2, S.4)" in table.deviation
    assert "weight_decay 0.1 instead of 0.0 (S.3)" in table.deviation, "a default there"
    assert "epochs 30 steps instead of 550 (S.10)" in table.deviation
    assert "pretraining ImageNet/encoder.pt instead of imagenet (S.5)" in table.deviation, "a stand-in is no ImageNet"
    assert row_of(table, "S.1")[0] == "deeplabv2_small" and record_of(table, "S.10")["differs"] == "epochs"
    assert row_of(table, "S.7")[1] == "nanosem", "the encoder of a NanoSEM run is the study's pre-training"
    for experiment in ("ImageNet", "NanoSEM"):
        (tmp_path / experiment).mkdir()
        (tmp_path / experiment / "config.json").write_text(json.dumps({"epochs": 3, "pretraining": "random"}))
        (tmp_path / experiment / "finished.json").write_text("{}")
    table = study_tables.supervised(opened(tmp_path))
    assert row_of(table, "S.7")[3] == "S.7†" and "epochs 3 instead of 100 (NanoSEM)" in table.deviation
    pretraining(opened(tmp_path), tmp_path / "figure2.png")
    assert cv2.imread(str(tmp_path / "figure2.png")) is not None


def test_trends_hold_by_the_rule_only(tmp_path):
    cases = {"S.1": [0.7, 0.71, 0.72], "S.4": [0.75, 0.75, 0.78], "S.7": [0.74, 0.77, 0.77], "S.2": [0.6, 0.6, 0.63]}
    for experiment, values in cases.items():
        write_folds(tmp_path, experiment, {"source": values})
    write_folds(tmp_path, "S.5", {"source": [0.9, 0.9]})
    found = {trend.claim: trend for trend in trends.check(opened(tmp_path))}
    better = found["pre-training imagenet > random, augmentation none, source"]
    assert better.verdict == trends.HOLDS and better.ours == "76.0 against 71.0: +5.0 ± 1.0 (3 folds)"
    assert better.study == "76.1 against 75.8: +0.3"
    unclear = found["pre-training nanosem > imagenet, augmentation none, source"]
    assert (unclear.verdict, unclear.reason) == (trends.OPEN, "smaller than the spread")
    assert found["augmentation basic > none, pre-training random, source"].verdict == trends.FAILS
    few = found["augmentation basic > none, pre-training imagenet, source"]
    assert (few.verdict, few.reason) == (trends.OPEN, "2 of at least 3 folds")
    missing = found["UDA > generalization, t1"]
    assert (missing.verdict, missing.ours) == (trends.OPEN, "")
    equal = trends.compare("4.3", "", {0: 0.7, 1: 0.72, 2: 0.7}, {0: 0.71, 1: 0.71, 2: 0.7}, (78, 77.4), equal=True)
    assert equal.verdict == trends.HOLDS
    wide, narrow = {0: 0.1, 1: 0.5, 2: 0.9}, {0: 0.4, 1: 0.41, 2: 0.42}
    assert trends.compare_spreads("", "", wide, narrow, (1, 1)).verdict == trends.HOLDS
    assert trends.compare_spreads("", "", narrow, wide, (1, 1)).verdict == trends.FAILS
    assert trends.compare_spreads("", "", wide, {0: 0.2, 1: 0.5, 2: 0.7}, (1, 1)).verdict == trends.OPEN


def test_files_of_every_table(tmp_path):
    write_folds(tmp_path / "runs", "S.4", {"source": [0.8, 0.82]}, model="deeplabv2_small")
    out = tmp_path / "report"
    out.mkdir()
    report = write_study(opened(tmp_path / "runs"), out)
    assert len(report.tables) == 9
    for table in [*report.tables, report.trends]:
        text = (out / f"{table.name}.tex").read_text()
        assert text.isascii(), "compiles without further packages than booktabs"
        columns = text.partition(r"\begin{tabular}{")[2].partition("}")[0]
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(lines) == len(table.rows) + 1 and {line.count(" & ") for line in lines} == {len(columns) - 1}
        assert text.replace(r"\{", "").count("{") == text.replace(r"\}", "").count("}")
        with (out / f"{table.name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(table.rows)
        markdown = (out / f"{table.name}.md").read_text()
        assert all(note in markdown for note in table.notes)
    assert "deeplabv2_small instead of unet_vgg16" in (out / "table2.md").read_text()
    assert r"\_" in latex(["a_b"], [["50 %"]]) and r"\%" in latex(["a_b"], [["50 %"]])


def test_folds_scored_by_different_versions_are_one_row(tmp_path):
    """score.json holds other digits for the same configuration, or config.json does not know an option added later."""
    digits = digest_of(read_config(write_run(tmp_path, "S.4", 0, script="train_supervised")))
    for fold, configuration in enumerate(("of an old version", digits, digits)):
        more = {"lambda_aux": 0.1} if fold == 2 else {}  # its default
        write_run(tmp_path, "S.4", fold, script="train_supervised", **more)
        write_score(tmp_path, "S.4", fold, "source", 0.8, configuration=configuration)
    members = [str(tmp_path / "S.4" / f"fold{fold}") for fold in range(3)]
    write_score(tmp_path, "S.4", None, "t1", 0.7, folder=tmp_path / "S.4/ensemble.t1", runs=members)
    (row,) = overview(tmp_path, collect(tmp_path)[0])[1]
    assert row[3:] == [digits, "80.0 ± 0.0", "", "3", "70.0", "", "1"]
    for fold in range(3):
        (tmp_path / "S.4" / f"fold{fold}" / "config.json").unlink()
    found = {score["configuration"] for score in collect(tmp_path)[0]}
    assert found == {"of an old version", digits, "abc"}, "without config.json what score.json says counts"


_TOML = """
[options]
reference = "source"
scale = 1.0
tile = 48
overlap = 8

[domains.source]
images = "source/images"
masks = "source/masks"
foreground = [255]
pixel_size_nm = 50
folds = 2

[domains.t1]
images = "t1/images"
masks = "t1/masks"
foreground = [255]
pixel_size_nm = 50
test = ["<b>x", "m1"]
"""


def test_the_report_from_real_scores(tmp_path, monkeypatch):
    draw(tmp_path / "source", 4, seed=1, contrast=1.0)
    draw(tmp_path / "t1", 3, seed=2, contrast=0.5)
    for kind in ("images", "masks"):
        shutil.move(tmp_path / "t1" / kind / "m0.png", tmp_path / "t1" / kind / "<b>x.png")
    (tmp_path / "domains.toml").write_text(_TOML)
    stores, runs = tmp_path / "<i>stores", tmp_path / "runs"
    run("-m", "data.prepare", tmp_path / "domains.toml", "--out", stores)
    for fold in (0, 1):
        folder = make_run(runs / f"S.10/fold{fold}", stores, fold, experiment="S.10", fold=fold, data=str(stores))
        assert call(monkeypatch, folder, "--data", stores, "--domain", "source", "t1", "--gradcam") == 0
    own = make_run(runs / "own/fold0", stores, experiment="<b>own", data=str(stores))
    assert call(monkeypatch, own, "--data", stores, "--domain", "t1") == 0
    printed = run("-m", "evaluation.tables", runs, "--out", tmp_path / "report").stdout
    assert "S.10" in printed
    with (tmp_path / "report/table3.csv").open() as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    scores = [json.loads((runs / f"S.10/fold{k}/evaluation/t1/score.json").read_text())["miou"] for k in (0, 1)]
    assert float(rows["T1.10"]["miou"]) == pytest.approx(100 * statistics.mean(scores), abs=1e-3)
    assert rows["T1.11"]["miou"] == rows["T1.1"]["miou"] == ""
    page = (tmp_path / "report/report.html").read_text()
    assert "&lt;i&gt;stores" in page and "<i>" not in page and "&lt;b&gt;own" in page and "<b>own" not in page
    assert "These runs are not the study's." in page and "deeplabv2_small instead of deeplabv2_resnet101" in page
    assert page.count("<img src='data:image/jpeg;base64,") == page.count("<img") > 5, "stands alone in one file"
    assert "Table 7" in page and "All scores" in page
    names = sorted(path.name for path in (tmp_path / "report/figures").iterdir())
    assert names == [f"figure{number}.png" for number in (1, 2, 4, 5, 6, 7)]
    for name in names:
        assert cv2.imread(str(tmp_path / "report/figures" / name)).shape[1] > 1000


def test_a_folder_without_the_studys_runs_has_the_overview_only(tmp_path, stores, monkeypatch):
    own = make_run(tmp_path / "runs/own/fold0", stores, experiment="own", data=str(stores))
    assert call(monkeypatch, own, "--data", stores, "--domain", "labelled") == 0
    run("-m", "evaluation.tables", tmp_path / "runs", "--out", tmp_path / "report")
    assert not (tmp_path / "report/table2.md").exists() and (tmp_path / "report/scores.md").is_file()
    assert "Table 2" not in (tmp_path / "report/report.html").read_text()


def test_experiments_that_the_file_does_not_have_are_gaps(tmp_path):
    (tmp_path / "few.toml").write_text('["S.4"]\nscript = "train_supervised"\nsource = "source"\n')
    write_folds(tmp_path / "runs", "S.4", {"source": [0.8, 0.82]})
    report = write_study(published.StudyRuns(tmp_path / "runs", tmp_path / "few.toml"), tmp_path)
    assert row_of(report.tables[0], "S.4")[4] == "81.0 ± 1.4" and row_of(report.tables[1], "T1.4")[4] == ""
