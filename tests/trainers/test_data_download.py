"""Downloads of published data sets, from a server of the test's own."""

import functools
import hashlib
import http.server
import tarfile
import threading

import pytest
from test_data_files import built, cifar10_files, mnist_files, write

from trainers.data import cifar10, mnist
from trainers.data.files import Remote

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def server(tmp_path):
    """A folder that is served over HTTP on this machine, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield folder, f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join(5)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_mnist_is_downloaded_when_asked(tmp_path, server, monkeypatch):
    folder, address = server
    write(folder, mnist_files(), zipped=True)
    monkeypatch.setattr(mnist, "_ADDRESS", address)
    monkeypatch.setattr(mnist, "_MD5", {name: md5(folder / f"{name}.gz") for name in mnist_files()})
    root = tmp_path / "new" / "data"
    assert built(name="mnist", root=str(root), download=True).train_size == 6
    assert sorted(path.name for path in (root / "mnist").glob("[!.]*")) == sorted(
        f"{name}.gz" for name in mnist_files()
    )
    monkeypatch.setattr(mnist, "_ADDRESS", "http://127.0.0.1:9/")
    assert built(name="mnist", root=str(root), download=True).train_size == 6


def test_cifar10_is_downloaded_and_unpacked(tmp_path, server, monkeypatch):
    folder, address = server
    write(tmp_path / "cifar-10-batches-py", cifar10_files())
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    remote = Remote(f"{address}cifar.tar.gz", md5(folder / "cifar.tar.gz"), cifar10._ARCHIVE.unpack)
    monkeypatch.setattr(cifar10, "_ARCHIVE", remote)
    root = tmp_path / "data"
    assert built(name="cifar10", root=str(root), download=True).train_size == 15
    written = sorted(path.name for path in (root / "cifar-10-batches-py").glob("[!.]*"))
    assert written == sorted(cifar10_files())


def test_a_download_with_other_contents_leaves_nothing(tmp_path, server, monkeypatch):
    folder, address = server
    write(folder, mnist_files(), zipped=True)
    monkeypatch.setattr(mnist, "_ADDRESS", address)
    with pytest.raises(ValueError, match=r"got a file with md5 \w+, expected f68b3c2dcbeaaa9fbdd348bbdeb94873"):
        built(name="mnist", root=str(tmp_path / "data"), download=True)
    assert not list((tmp_path / "data" / "mnist").glob("[!.]*"))


def test_a_server_without_the_file_is_an_error_with_its_address(tmp_path, server, monkeypatch):
    monkeypatch.setattr(mnist, "_ADDRESS", server[1])
    with pytest.raises(ValueError, match=r"cannot download http://127.0.0.1:\d+/train-images-idx3-ubyte.gz: .*404"):
        built(name="mnist", root=str(tmp_path / "data"), download=True)


def test_a_root_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(ValueError, match=r"cannot download to .*data/mnist"):
        built(name="mnist", root=str(tmp_path / "data"), download=True)
