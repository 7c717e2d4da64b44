import asyncio
import datetime
import hashlib
import io
import os
import urllib.error
import urllib.request

from e2b import AsyncSandbox, Sandbox
from e2b_steps import finish, step, until

MEGABYTE = 1024 * 1024
sandbox = Sandbox.connect(os.environ["SANDBOX"])
files = sandbox.files
home = "/home/user/files"


def plain(e):
    fresh = abs((datetime.datetime.now(datetime.timezone.utc) - e.modified_time).total_seconds()) < 3600
    return {
        "name": e.name, "type": e.type.value, "path": e.path, "size": e.size, "mode": e.mode, "permissions": e.permissions, "owner": e.owner,
        "group": e.group, "modifiedTime": fresh, **({"symlinkTarget": e.symlink_target} if e.symlink_target else {}),
    }  # fmt: skip


def written(info):
    return {"name": info.name, "type": info.type.value, "path": info.path}


step("write")(lambda: written(files.write(f"{home}/hello.txt", "héllo\n")))
step("write_bytes")(lambda: written(files.write(f"{home}/bytes.bin", bytes([0, 255, 13, 10, 45, 45]))))
step("write_empty")(lambda: written(files.write(f"{home}/empty", "")))
step("write_relative")(lambda: written(files.write("relative.txt", "r")))
step("write_odd_name")(lambda: written(files.write(f'{home}/ä "q" %22 +.txt', "odd")))
step("read_odd_name")(lambda: files.read(f'{home}/ä "q" %22 +.txt'))
step("write_many")(lambda: [written(w) for w in files.write_files([{"path": f"{home}/many/1.txt", "data": "1"}, {"path": f"{home}/many/deep/2.txt", "data": "22"}, {"path": f"{home}/many/3", "data": ""}])])  # fmt: skip
step("write_octets")(lambda: written(files.write(f"{home}/octets", "octets", use_octet_stream=True)))
step("write_gzip")(lambda: written(files.write(f"{home}/gzip", "zipped " * 100_000, gzip=True)))
step("write_root")(lambda: written(files.write("/root/of_root", "r", user="root")))
step("write_denied")(lambda: written(files.write("/root/of_user", "u")))
step("write_directory")(lambda: written(files.write(f"{home}/many", "no")))
step("write_metadata")(lambda: written(files.write(f"{home}/meta", "m", metadata={"a": "b"})))
step("unknown_user")(lambda: files.read(f"{home}/hello.txt", user="nobody"))

step("read")(lambda: files.read(f"{home}/hello.txt"))
step("read_bytes")(lambda: list(files.read(f"{home}/bytes.bin", format="bytes")))
step("read_empty")(lambda: files.read(f"{home}/empty"))
step("read_gzip")(lambda: len(files.read(f"{home}/gzip", gzip=True)))
step("read_missing")(lambda: files.read(f"{home}/missing"))
step("read_directory")(lambda: files.read(home))


@step("big")
def _():
    sent, got, size = hashlib.sha256(), hashlib.sha256(), 0

    def chunks():
        for i in range(100, 0, -1):
            chunk = b"\r" + bytes([i]) * (MEGABYTE - 1)
            sent.update(chunk)
            yield chunk

    files.write(f"{home}/big", chunks(), use_octet_stream=True, request_timeout=0)
    inside = sandbox.commands.run(f"sha256sum {home}/big", timeout=0)
    for chunk in files.read(f"{home}/big", format="stream"):
        got.update(chunk)
        size += len(chunk)
    return {"size": size, "inside": inside.stdout.startswith(sent.hexdigest()), "back": got.hexdigest() == sent.hexdigest()}


@step("big_form")
def _():
    data = b"".join(bytes([i]) * MEGABYTE for i in range(30))
    files.write(f"{home}/form", io.BytesIO(data), use_octet_stream=False, request_timeout=0)
    return bytes(files.read(f"{home}/form", format="bytes")) == data


step("big_removed")(lambda: (files.remove(f"{home}/big"), files.remove(f"{home}/form")) and None)

step("list")(lambda: [plain(e) for e in files.list(f"{home}/many")])
step("list_deep")(lambda: [e.path for e in files.list(f"{home}/many", depth=2)])
step("list_missing")(lambda: files.list(f"{home}/missing"))
step("info")(lambda: plain(files.get_info(f"{home}/hello.txt")))
step("info_link")(lambda: sandbox.commands.run(f"ln -s hello.txt {home}/link") and plain(files.get_info(f"{home}/link")))
step("exists")(lambda: [files.exists(f"{home}/hello.txt"), files.exists(f"{home}/missing")])
step("make_dir")(lambda: [files.make_dir(f"{home}/new/deep"), files.make_dir(f"{home}/new/deep")])
step("rename")(lambda: plain(files.rename(f"{home}/hello.txt", f"{home}/new/there.txt")))
step("renamed")(lambda: [files.exists(f"{home}/hello.txt"), files.read(f"{home}/new/there.txt")])
step("rename_missing")(lambda: plain(files.rename(f"{home}/missing", f"{home}/other")))
step("remove")(lambda: files.remove(f"{home}/new") or files.exists(f"{home}/new"))


def fetch(url, data=None, content_type=None):
    request = urllib.request.Request(url, data=data, headers={"Content-Type": content_type} if content_type else {})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


step("upload_url")(lambda: fetch(sandbox.upload_url(f"{home}/signed.txt"), b"signed", "application/octet-stream")[0])
step("download_url")(lambda: fetch(sandbox.download_url(f"{home}/signed.txt", use_signature_expiration=600))[1])
step("download_url_forged")(lambda: fetch(sandbox.download_url(f"{home}/signed.txt").replace("signed.txt", "octets"))[0])
step("download_url_expired")(lambda: fetch(sandbox.download_url(f"{home}/signed.txt", use_signature_expiration=-60))[0])


@step("watch")
def _():
    """The package's plain client cannot wait on a stream: it asks for what was kept."""
    files.make_dir(f"{home}/watched")
    seen = []

    def came(name, kind):
        seen.extend((e.name, e.type.value) for e in handle.get_new_events())
        return (name, kind) in seen

    handle = files.watch_dir(f"{home}/watched")
    files.write(f"{home}/watched/one", "1")
    until("a create event", lambda: came("one", "create"))
    files.remove(f"{home}/watched/one")
    until("a remove event", lambda: came("one", "remove"))
    handle.stop()
    return True


@step("watch_recursive")
def _():
    async def run():
        box = await AsyncSandbox.connect(os.environ["SANDBOX"])
        found = asyncio.get_running_loop().create_future()

        def on_event(event):
            if event.name == "sub/two" and event.type.value == "create" and not found.done():
                found.set_result(event)

        handle = await box.files.watch_dir(f"{home}/watched", on_event, recursive=True, include_entry=True, timeout=0)
        await box.files.write(f"{home}/watched/sub/two", "22")
        event = await asyncio.wait_for(found, 60)
        await handle.stop()
        return {"name": event.entry.name, "type": event.entry.type.value, "path": event.entry.path}

    return asyncio.run(run())


step("watch_missing")(lambda: files.watch_dir(f"{home}/missing") and None)
step("health")(sandbox.is_running)
finish()
