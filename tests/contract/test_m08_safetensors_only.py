"""M8: weights are saved as .safetensors, never pickles; and no pickle is ever opened."""

import pickle

from safetensors import safe_open


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_m08_nothing_in_a_run_s_folder_is_a_pickle(trained):
    for path in (trained.root / "output" / "my_style").rglob("*"):
        if path.is_file():
            start = path.read_bytes()[:2]
            assert start not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), path
            assert path.suffix not in (".pt", ".pth", ".bin", ".ckpt", ".pkl"), path
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert len(list(file.keys())) > 0


def test_m08_a_pickle_named_safetensors_is_refused_and_never_opened(desk):
    marker = desk.root / "canary"
    (desk.root / "evil.safetensors").write_bytes(pickle.dumps(Canary(str(marker))))
    done = desk.train(desk.config(base_model="evil.safetensors"))
    assert done.code == 2, done.text
    assert "LS4003" in done.err
    assert not marker.exists()
    assert "Traceback" not in done.text
