/* PandaStack's package through every call that Cella has an answer for. PANDASTACK_MODULE: its entry, PANDASTACK_API: the daemon. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { finish, step } from './steps.mjs'

const { Client, Sandbox } = await import(process.env.PANDASTACK_MODULE)
const client = new Client({ timeoutMs: 120_000 })
const collect = async (lines) => {
  const all = []
  for await (const line of lines) all.push(line)
  return all
}

let box
await step('create', async () => {
  box = await Sandbox.create({ template: 'code-interpreter', ttlSeconds: 3000, metadata: { job: 'one' } }, client)
  return box.info
})
await step('create_default', async () => {
  const other = await Sandbox.create({}, client)
  await other.kill()
  return other.info
})
await step('create_unknown', () => Sandbox.create({ template: 'no-such-template' }, client))
await step('get', async () => (await Sandbox.get(box.id, client)).info)
await step('list', async () => (await Sandbox.list(client)).map((each) => each.id))
await step('get_unknown', () => client.sandboxes.get('sbx_' + '0'.repeat(32)))

await step('exec', () => box.exec('echo out; echo err >&2; exit 3'))
await step('exec_check', () => box.exec('exit 4', { check: true }))
await step('exec_timeout', () => box.exec('echo before; sleep 300', { timeoutSeconds: 1 }))
await step('commands', () => box.commands.run('pwd'))
await step('exec_stream', async () => {
  const out = [], err = []
  const code = await box.execStream('echo a; echo b >&2; exit 5', { onStdout: (c) => out.push(c), onStderr: (c) => err.push(c) })
  return { code, out: out.join(''), err: err.join('') }
})
await step('exec_stream_timeout', () => box.execStream('sleep 300', { timeoutSeconds: 1 }))
await step('exec_stream_killed', () => box.execStream('kill -9 $$'))
await step('run_code_python', () => box.runCode('print(6 * 7)', 'python'))
await step('run_code_shell', () => box.runCode('echo $((6 * 7))'))
await step('logs', async () => (await collect(box.logs({ stream: 'stdout' }))).includes('out'))
await step('logs_follow', async () => {
  const seen = { kept: false, new: false }
  for await (const line of box.logs({ follow: true })) {
    if (line === 'out' && !seen.kept) {
      seen.kept = true
      await box.exec('echo while following')
    }
    if (line === 'while following') seen.new = true
    if (seen.new) break
  }
  return seen
})

let context
await step('context', async () => {
  context = await box.createCodeContext('python')
  return context.id
})
await step('context_state', async () => {
  await context.runCode('x = 20')
  return context.runCode('print("printed")\nx + 1')
})
await step('context_error', () => context.runCode('1/0'))
await step('context_png', async () => {
  const run = await context.runCode('import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()')
  return run.png?.slice(0, 11)
})
await step('context_html', async () => (await context.runCode('import pandas\npandas.DataFrame({"a": [1]})')).results[0].html.includes('<table'))
await step('context_json', async () => (await context.runCode('from IPython.display import JSON\nJSON({"a": [1]})')).results[0].json)
await step('context_timeout', () => context.runCode('import time\nkept = 5\ntime.sleep(300)', { timeoutSeconds: 1 }))
await step('context_after_timeout', () => context.runCode('kept + x'))
await step('context_close', async () => {
  await context.close()
  return client.request('GET', `/sandboxes/${box.id}/repl/sessions`).then((all) => all.map((one) => one.id).includes(context.id))
})
await step('repl', () => client.request('POST', `/sandboxes/${box.id}/repl`, { json: { language: 'python', code: 'print(1)\n2' } }))
await step('repl_languages', () => client.request('GET', `/sandboxes/${box.id}/repl/languages`))

const here = mkdtempSync(join(tmpdir(), 'cella-panda-'))
await step('fs_write', () => box.filesystem.write('/workspace/d/hello.txt', 'h\u00e4llo'))
await step('fs_write_bytes', () => box.filesystem.write('/workspace/d/bytes', new Uint8Array([0, 255, 10])))
await step('fs_read', () => box.filesystem.read('/workspace/d/hello.txt'))
await step('fs_read_missing', () => box.filesystem.read('/workspace/none'))
await step('fs_upload', async () => {
  writeFileSync(join(here, 'local'), 'from here')
  await box.filesystem.upload(join(here, 'local'), '/workspace/d/up')
  await box.filesystem.download('/workspace/d/up', join(here, 'new', 'back'))
  return readFileSync(join(here, 'new', 'back'), 'utf8')
})
await step('fs_list', async () => (await box.filesystem.list('/workspace/d')).map(({ name, path, is_dir, size }) => ({ name, path, is_dir, size })))
await step('fs_stat', async () => (({ name, path, is_dir, size, mode }) => ({ name, path, is_dir, size, mode }))(await box.filesystem.stat('/workspace/d/hello.txt')))
await step('fs_mtime', async () => Number.isNaN((await box.filesystem.stat('/workspace/d/hello.txt')).mtime))
await step('fs_exists', async () => [await box.filesystem.exists('/workspace/d'), await box.filesystem.exists('/workspace/none')])
await step('fs_walk', async () => (await collect(box.filesystem.walk('/workspace/d'))).map((one) => [one.dir, one.files.map((f) => f.name)]))
await step('fs_delete', () => client.request('DELETE', `/sandboxes/${box.id}/fs`, { query: { path: '/workspace/d/up' }, parseAs: 'none' }))

await step('lifecycle', () => box.lifecycle())
await step('set_ttl', async () => (await box.setTtl(2000)).ttl_seconds)
await step('set_persistent', async () => [(await box.setPersistent(true)).persistent, (await box.setPersistent(false)).persistent])
await step('pause', async () => {
  await box.pause()
  const paused = (await Sandbox.get(box.id, client)).status
  await box.resume()
  return [paused, (await Sandbox.get(box.id, client)).status]
})
await step('hibernate', async () => {
  await box.exec('echo kept > /workspace/kept')
  await box.hibernate()
  const asleep = (await Sandbox.get(box.id, client)).status
  await box.wake()
  return [asleep, (await Sandbox.get(box.id, client)).status, (await box.exec('cat /workspace/kept')).stdout]
})
await step('hibernate_auto_wake', async () => {
  await client.request('POST', `/sandboxes/${box.id}/stop`, { parseAs: 'none' })
  return (await box.exec('cat /workspace/kept')).stdout
})

let snapshot
await step('snapshot', async () => (snapshot = await box.snapshot()))
await step('snapshot_list', async () => (await client.snapshots.list({ sandbox_id: box.id })).map((each) => each.id))
await step('snapshot_get', async () => (await client.snapshots.get(snapshot.id)).id)
await step('snapshot_create', async () => {
  const again = await client.sandboxes.create({ template: 'code-interpreter', fromSnapshot: snapshot.id })
  const kept = (await again.exec('cat /workspace/kept')).stdout
  await again.kill()
  return kept
})
await step('snapshot_delete', async () => {
  await client.snapshots.delete(snapshot.id)
  return (await client.snapshots.list()).some((each) => each.id === snapshot.id)
})

await step('fork', async () => {
  const child = await box.fork({ metadata: { branch: 'a' } })
  await child.exec('echo child > /workspace/kept')
  const both = [(await child.exec('cat /workspace/kept')).stdout, (await box.exec('cat /workspace/kept')).stdout]
  const info = (await client.sandboxes.get(child.id)).info
  await child.kill()
  return { both, parent: info.parent_id === box.id, metadata: info.metadata }
})
await step('fork_tree', async () => {
  const children = await box.forkTree({ count: 2, metadata: { trial: 'b' } })
  const seen = children.map((child) => child.info.metadata.fork_index)
  const { winner, tree_id, deleted } = await children[1].promote({ cleanupSiblings: true })
  const left = [await client.sandboxes.get(children[0].id).then(() => 'there', (e) => e.statusCode), (await children[1].exec('echo on')).stdout]
  await children[1].kill()
  return { seen, won: winner === children[1].id, tree: tree_id === children[0].info.metadata.fork_tree_id, deleted: deleted.length, left }
})
await step('explore', async () => {
  const result = await box.explore(['echo 3 > /home/score; echo 3', 'echo 9', 'exit 1'], { scoreFn: (_, outcome) => Number(outcome.stdoutTail) })
  const alive = (await client.sandboxes.list()).map((each) => each.id)
  const found = {
    score: result.winnerOutcome.score, reaped: result.reaped.length, errors: result.errors, tree: result.treeId !== '',
    alive: result.outcomes.map((o) => alive.includes(o.sandboxId)), failed: result.outcomes.filter((o) => !o.ok).map((o) => o.exitCode),
  }
  await result.winner.kill()
  return found
})

await step('events', async () => (await client.request('GET', `/sandboxes/${box.id}/events`)).map((event) => event.type))
await step('metrics', async () => Object.keys(await client.request('GET', `/sandboxes/${box.id}/metrics`)))
await step('templates', async () => (await client.templates.list()).map((one) => one.name))
await step('template', async () => (await client.templates.get('code-interpreter')).name)
await step('me', () => client.me())
await step('mcp', async () => {
  const say = (method, params, id) => client.request('POST', '/mcp', { json: { jsonrpc: '2.0', id, method, params }, headers: { accept: 'application/json, text/event-stream' } })
  return say('initialize', { protocolVersion: '2025-06-18', capabilities: {}, clientInfo: { name: 't', version: '1' } }, 1)
})

await step('ports', () => box.previewUrls())
await step('volumes', () => client.volumes.create({ name: 'v', size_mb: 10 }))
await step('volumes_list', () => client.volumes.list())
await step('template_build', () => client.templates.build({ name: 't', rootfs: new Blob(['x'.repeat(20_000_000)]) }))
await step('template_register', () => client.templates.register({ name: 't', imageRef: 'r/i' }))
await step('template_dockerfile', () => client.templates.buildFromDockerfile({ name: 't', dockerfile: 'FROM x\nRUN y' }))
await step('template_builds', () => client.templates.builds())
await step('template_build_status', () => client.templates.buildStatus('b1'))
await step('template_build_logs', () => collect(client.templates.buildLogs('b1')))
await step('template_delete', () => client.templates.delete('python'))
await step('databases', () => client.databases.create({}))
await step('apps', () => client.apps.list())
await step('functions', () => client.functions.list())
await step('schedules', () => client.schedules.list())
await step('tokens', () => client.tokens.list())
await step('tokens_create', () => client.tokens.create('laptop'))

await step('kill', async () => {
  await box.kill()
  return Sandbox.get(box.id, client)
})
finish()
