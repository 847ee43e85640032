"""Project files that Holdfast writes: every one is taken by `settings.parse`."""

import re
from pathlib import Path

import pytest

from holdfast.backend.pipelines.template import render
from holdfast.backend.project_file import load, parse
from holdfast.backend.settings import FeatureSettings, ServingSettings, Settings, SplitSettings, TrainingSettings
from holdfast.errors import ConflictError, FileError, NotFoundError
from holdfast.frontend.client import init


def test_the_template_is_a_project_file() -> None:
    settings = parse(render("检查: 一"))
    assert settings.project == "检查: 一"
    assert settings.features == FeatureSettings()


def test_every_option_is_shown_with_its_default() -> None:
    """With the marks taken away, the options still parse, and to the defaults."""
    text = render("p")
    start = text.index("# features:")
    options = re.sub(r"^# (?=[ a-z])", "", text[start:], flags=re.MULTILINE)
    options = re.sub(r"^(How|Which|Where) .*$", "", options, flags=re.MULTILINE)
    settings = parse(text[:start] + options)
    assert settings.features == FeatureSettings()
    assert settings.training == TrainingSettings()
    assert settings.serving == ServingSettings()
    assert settings.split == SplitSettings()
    for model in (FeatureSettings, TrainingSettings, ServingSettings, SplitSettings):
        for name, field in model.model_fields.items():
            assert f"\n#   {field.alias or name}:" in text


def test_a_project_file_is_never_overwritten(tmp_path: Path) -> None:
    path = init(tmp_path / "新")
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConflictError):
        init(tmp_path / "新")
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        init(tmp_path / "p", tmp_path / "nowhere")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.pdf").write_bytes(b"%PDF")
    with pytest.raises(NotFoundError):
        init(tmp_path / "p", tmp_path / "in")
    assert not (tmp_path / "p").exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.xlsx").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(FileError, match=r"broken\.xlsx"):
        init(tmp_path / "p", tmp_path)
    assert not (tmp_path / "p").exists()


def test_plain_files_are_proposed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    customers = "".join(f"{n},名{n},{('北京', '上海')[n % 2]},0{n:04d}\n" for n in range(40))
    orders = "".join(
        f"{1000 + n},{n % 40},2024-01-{n % 28 + 1:02d},{n * 1.5},{'yes' if n % 3 else 'no'}\n" for n in range(80)
    )
    (folder / "customers_2024-01.csv").write_text("customer_id,name,city,zip\n" + customers, encoding="utf-8")
    (folder / "orders.csv").write_text("order_id,customer_id,ordered_at,amount,paid\n" + orders, encoding="utf-8")
    text = init(tmp_path / "p", folder).read_text(encoding="utf-8")
    settings = parse(text)
    assert settings.tables["customers"].key == ("customer_id",)
    assert settings.tables["orders"].key == ("order_id",)
    assert settings.tables["orders"].time == "ordered_at"
    assert settings.tables["orders"].links == {"customer_id": "customers"}
    # A postcode with zeros in front is no number.
    assert re.search(r"#   zip: category", text)
    assert "#     label: paid" in text


def test_real_deliveries_are_proposed(data_dir: Path, tmp_path: Path) -> None:
    """What a person wrote for these files by hand, apart from the composite key that real defects break."""
    init(tmp_path / "p", data_dir / "sf_inspections")
    settings = load(tmp_path / "p")
    businesses, inspections, violations = (settings.tables[n] for n in ("businesses", "inspections", "violations"))
    assert (businesses.key, businesses.delivery, businesses.time) == (("business_id",), "full", None)
    assert (inspections.time, inspections.links) == ("date", {"business_id": "businesses"})
    assert inspections.key in {("business_id", "date", "type"), ("business_id", "date")}
    assert (violations.time, violations.links) == ("date", {"business_id": "businesses"})
    assert isinstance(settings, Settings)


def test_the_demo_city_is_proposed(tmp_path: Path) -> None:
    from holdfast.frontend.demo import DELIVERIES, generate

    generate(tmp_path / "city")
    init(tmp_path / "p", tmp_path / "city" / DELIVERIES)
    settings = load(tmp_path / "p")
    assert set(settings.tables) == {"餐厅", "inspections", "violations", "投诉"}
    assert (settings.tables["餐厅"].key, settings.tables["餐厅"].delivery) == (("餐厅编号",), "full")
    assert settings.tables["投诉"].links == {"餐厅编号": "餐厅"}
    assert settings.tables["投诉"].time == "日期"
