"""Shared fixtures: whole tiny classifiers, and a hub that is out of reach."""

import pytest

import classifier


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return classifier.write(tmp_path_factory.mktemp("tied"), "tied")
