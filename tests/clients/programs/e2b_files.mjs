import { createHash } from 'node:crypto'
import { e2b, finish, step, until } from './e2b_steps.mjs'

const MEGABYTE = 1024 * 1024
const { Sandbox } = e2b
const sandbox = await Sandbox.connect(process.env.SANDBOX)
const files = sandbox.files
const home = '/home/user/files'
const plain = (e) => ({ ...e, modifiedTime: e.modifiedTime instanceof Date && e.modifiedTime.getTime() > Date.now() - 3600_000 })

await step('write', () => files.write(`${home}/hello.txt`, 'héllo\n'))
await step('write_bytes', () => files.write(`${home}/bytes.bin`, new Uint8Array([0, 255, 13, 10, 45, 45]).buffer))
await step('write_empty', () => files.write(`${home}/empty`, ''))
await step('write_relative', () => files.write('relative.txt', 'r'))
await step('write_odd_name', () => files.write(`${home}/ä "q" %22 +.txt`, 'odd'))
await step('read_odd_name', () => files.read(`${home}/ä "q" %22 +.txt`))
await step('write_many', () => files.writeFiles([{ path: `${home}/many/1.txt`, data: '1' }, { path: `${home}/many/deep/2.txt`, data: '22' }, { path: `${home}/many/3`, data: '' }]))
await step('write_octets', () => files.write(`${home}/octets`, 'octets', { useOctetStream: true }))
await step('write_gzip', () => files.write(`${home}/gzip`, 'zipped '.repeat(100_000), { gzip: true }))
await step('write_root', () => files.write('/root/of_root', 'r', { user: 'root' }))
await step('write_denied', () => files.write('/root/of_user', 'u'))
await step('write_directory', () => files.write(`${home}/many`, 'no'))
await step('write_metadata', () => files.write(`${home}/meta`, 'm', { metadata: { a: 'b' } }))
await step('unknown_user', () => files.read(`${home}/hello.txt`, { user: 'nobody' }))

await step('read', () => files.read(`${home}/hello.txt`))
await step('read_bytes', async () => [...(await files.read(`${home}/bytes.bin`, { format: 'bytes' }))])
await step('read_empty', () => files.read(`${home}/empty`))
await step('read_gzip', async () => (await files.read(`${home}/gzip`, { gzip: true })).length)
await step('read_missing', () => files.read(`${home}/missing`))
await step('read_directory', () => files.read(home))

await step('big', async () => {
  const sent = createHash('sha256')
  let left = 100
  const body = new ReadableStream({
    pull(controller) {
      if (!left) return controller.close()
      const chunk = new Uint8Array(MEGABYTE).fill(left--)
      chunk[0] = 13
      sent.update(chunk)
      controller.enqueue(chunk)
    },
  })
  await files.write(`${home}/big`, body, { useOctetStream: true, requestTimeoutMs: 0 })
  const inside = await sandbox.commands.run(`sha256sum ${home}/big`, { timeoutMs: 0 })
  const got = createHash('sha256')
  let size = 0
  for await (const chunk of await files.read(`${home}/big`, { format: 'stream', requestTimeoutMs: 0 })) {
    got.update(chunk)
    size += chunk.length
  }
  const wanted = sent.digest('hex')
  return { size, inside: inside.stdout.startsWith(wanted), back: got.digest('hex') === wanted }
})
await step('big_form', async () => {
  const blob = new Blob(Array.from({ length: 30 }, (_, i) => new Uint8Array(MEGABYTE).fill(i)))
  await files.write(`${home}/form`, blob, { useOctetStream: false, requestTimeoutMs: 0 })
  const back = Buffer.from(await files.read(`${home}/form`, { format: 'bytes' }))
  return Buffer.compare(back, Buffer.from(await blob.arrayBuffer())) === 0
})
await step('big_removed', async () => { await files.remove(`${home}/big`); await files.remove(`${home}/form`) })

await step('list', async () => (await files.list(`${home}/many`)).map(plain))
await step('list_deep', async () => (await files.list(`${home}/many`, { depth: 2 })).map((e) => e.path))
await step('list_missing', () => files.list(`${home}/missing`))
await step('info', async () => plain(await files.getInfo(`${home}/hello.txt`)))
await step('info_link', async () => {
  await sandbox.commands.run(`ln -s hello.txt ${home}/link`)
  return plain(await files.getInfo(`${home}/link`))
})
await step('exists', async () => [await files.exists(`${home}/hello.txt`), await files.exists(`${home}/missing`)])
await step('make_dir', async () => [await files.makeDir(`${home}/new/deep`), await files.makeDir(`${home}/new/deep`)])
await step('rename', async () => plain(await files.rename(`${home}/hello.txt`, `${home}/new/there.txt`)))
await step('renamed', async () => [await files.exists(`${home}/hello.txt`), await files.read(`${home}/new/there.txt`)])
await step('rename_missing', () => files.rename(`${home}/missing`, `${home}/other`))
await step('remove', async () => { await files.remove(`${home}/new`); return files.exists(`${home}/new`) })

const form = (text) => { const f = new FormData(); f.append('file', new Blob([text]), 'name.txt'); return f }
await step('upload_url', async () => {
  const done = await fetch(await sandbox.uploadUrl(`${home}/signed.txt`), { method: 'POST', body: form('signed') })
  return { status: done.status, body: await done.json() }
})
await step('upload_url_named', async () => {
  const done = await fetch(await sandbox.uploadUrl(), { method: 'POST', body: form('by name') })
  return { status: done.status, body: await done.json() }
})
await step('download_url', async () => (await fetch(await sandbox.downloadUrl(`${home}/signed.txt`, { useSignatureExpiration: 600 }))).text())
await step('download_url_forged', async () => {
  const other = (await sandbox.downloadUrl(`${home}/signed.txt`)).replace('signed.txt', 'octets')
  return (await fetch(other)).status
})
await step('download_url_expired', async () => (await fetch(await sandbox.downloadUrl(`${home}/signed.txt`, { useSignatureExpiration: -60 }))).status)
await step('upload_cut', async () => {
  /* A form without its end must not pass for one. */
  const done = await fetch(await sandbox.uploadUrl(`${home}/cut.txt`), {
    method: 'POST', headers: { 'content-type': 'multipart/form-data; boundary=b' },
    body: '--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhalf',
  })
  return { status: done.status, exists: await files.exists(`${home}/cut.txt`) }
})

await step('watch', async () => {
  await files.makeDir(`${home}/watched`)
  const seen = []
  const handle = await files.watchDir(`${home}/watched`, (event) => { seen.push(event) }, { timeoutMs: 0 })
  await files.write(`${home}/watched/one`, '1')
  await until('a create event', () => seen.some((e) => e.name === 'one' && e.type === 'create'))
  await files.remove(`${home}/watched/one`)
  await until('a remove event', () => seen.some((e) => e.name === 'one' && e.type === 'remove'))
  await handle.stop()
  return true
})
await step('watch_recursive', async () => {
  const seen = []
  const handle = await files.watchDir(`${home}/watched`, (event) => { seen.push(event) }, { timeoutMs: 0, recursive: true, includeEntry: true })
  await files.write(`${home}/watched/sub/two`, '22')
  const event = await until('the event of a file in a new directory', () => seen.find((e) => e.name === 'sub/two' && e.type === 'create'))
  await handle.stop()
  return { name: event.entry?.name, type: event.entry?.type, path: event.entry?.path }
})
await step('watch_missing', () => files.watchDir(`${home}/missing`, () => {}))
await step('health', () => sandbox.isRunning())
finish()
