from pathlib import Path

import pytest
import torch

from drrgen.cohort.base import Base, read_base

SIZE = 128


@pytest.fixture(scope="session")
def cohort_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Shared with the tests of the command and of the README.
    return tmp_path_factory.getbasetemp() / "cohort-cache" / "drrgen"


@pytest.fixture(scope="session")
def base(cohort_cache: Path) -> Base:
    return read_base(SIZE, cohort_cache)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
