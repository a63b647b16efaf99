"""A spelling does not decide whether weights may be used."""

import pytest

from regraft.models.backbones.licences import combine_licences, object_to_licence, read_stated
from regraft.models.selection.result import SelectConfig

POLICY = SelectConfig().forbidden_licences


@pytest.mark.parametrize(
    "stated",
    [
        "CC BY-NC 4.0", "cc_by_nc_4.0", "Non Commercial", "GNU AGPLv3", "CC-BY-NC-SA", "Creative Commons NonCommercial",
        "CC BY\u2011NC\u00a04.0", "CCBYNC 4.0", "Attribution-NonCommercial-ShareAlike 4.0 International", "GNU GPL",
        "GNU Affero General Public License v3.0", "General Public License, version 2", "gpl-3.0-or-later", "GPLv3",
        "https://creativecommons.org/licenses/by-nc/4.0/", "research only", "for academic use", "other (apple-amlr)",
        "not for commercial use", "MIT AND CC-BY-NC-4.0", "mit and cc by-nc 4.0", "cc-by-nc-4.0 OR agpl-3.0",
        "(MIT OR Apache-2.0) AND GPL-3.0-only",
    ],
)  # fmt: skip
def test_the_default_policy_knows_its_licences_in_any_spelling(stated: str) -> None:
    assert "select.forbidden_licences" in object_to_licence(stated, POLICY)


@pytest.mark.parametrize(
    "stated",
    [
        "Apache 2.0", "apache-2.0", "Apache License, Version 2.0", "The MIT License", "BSD 3-Clause", "CC BY 4.0",
        "CC-BY-SA-4.0", "LGPLv3", "GNU Lesser General Public License v2.1", "MIT OR GPL-3.0-only", "cc0-1.0", "NCSA",
        "unlicense", "openrail", "Academic Free License v3.0", "other", "unknown",
    ],
)  # fmt: skip
def test_the_default_policy_lets_others_pass(stated: str) -> None:
    assert object_to_licence(stated, POLICY) is None


@pytest.mark.parametrize(
    ("stated", "spdx"),
    [
        ("CC BY-NC 4.0", "CC-BY-NC-4.0"), ("GNU AGPLv3", "AGPL-3.0-only"), ("Apache 2.0", "Apache-2.0"),
        ("Creative Commons Attribution 4.0", "CC-BY-4.0"), ("mit and apache 2.0", "MIT AND Apache-2.0"),
        ("CC-BY-NC-SA", None), ("other", None),
    ],
)  # fmt: skip
def test_a_spelling_is_given_its_spdx_name_and_no_version_is_made_up(stated: str, spdx: str | None) -> None:
    assert read_stated(stated).spdx == spdx


def test_what_nobody_states_is_said_and_refused_where_the_policy_says_so() -> None:
    assert read_stated("unknown").describe() == "unknown (none is stated)"
    assert "read it" in read_stated("other (house-licence)").describe()
    for stated in ("unknown", "other", "other (house-licence)"):
        assert object_to_licence(stated, ["unknown", "other*"]) is not None


def test_places_that_differ_both_hold() -> None:
    assert combine_licences("apache-2.0", "Apache 2.0") == "apache-2.0"
    assert combine_licences("mit", "CC BY-NC 4.0") == "mit AND CC BY-NC 4.0"
    assert combine_licences(["mit", "cc-by-4.0"], None) == "mit AND cc-by-4.0"
    assert combine_licences(None, "") == "unknown"
