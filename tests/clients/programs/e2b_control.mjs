import { get } from 'node:http'
import { e2b, finish, step, until } from './e2b_steps.mjs'

const { Sandbox, Template, Volume } = e2b
const mark = `js-${process.pid}-${Date.now()}`
const metadata = { mark, odd: 'a b&c=d%20é/+' }
const made = []
const keep = (s) => (made.push(s), s)
const plain = (i) => ({ ...i, startedAt: i.startedAt.toISOString(), endAt: i.endAt.toISOString() })
const out = async (s, command) => (await s.commands.run(command)).stdout
const pages = async (p) => {
  const all = []
  while (p.hasNext) all.push((await p.nextItems()).map((s) => s.sandboxId))
  return all
}

let s
await step('create', async () => {
  s = keep(await Sandbox.create({ metadata, envs: { GREETING: 'hällo' }, timeoutMs: 600_000 }))
  return { id: s.sandboxId, env: await out(s, 'echo $GREETING'), home: await out(s, 'cd /home/user && touch here && ls /home/user'), host: s.getHost(3000) }
})
await step('create_unknown', () => Sandbox.create('no-such-template'))
await step('create_no_internet', async () => keep(await Sandbox.create({ allowInternetAccess: false, timeoutMs: 600_000 })).getInfo().then((i) => i.allowInternetAccess))
await step('create_allow_list', () => Sandbox.create({ network: { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] } }))
await step('create_volume', () => Sandbox.create({ volumeMounts: { '/data': 'mine' } }))
await step('info', async () => plain(await s.getInfo()))
await step('info_static', async () => (await Sandbox.getInfo(s.sandboxId)).sandboxId)
await step('info_missing', () => Sandbox.getInfo('sbx_' + '0'.repeat(32)))
await step('is_running', () => s.isRunning())
await step('list_by_metadata', () => pages(Sandbox.list({ query: { metadata } })))
await step('list_other_metadata', () => pages(Sandbox.list({ query: { metadata: { mark, odd: 'else' } } })))
await step('list_pages', async () => {
  const three = []
  for (let i = 0; i < 3; i++) three.push(keep(await Sandbox.create({ metadata: { mark: mark + 'p' }, timeoutMs: 600_000 })).sandboxId)
  const query = { metadata: { mark: mark + 'p' } }
  return { three, newest: await pages(Sandbox.list({ query, limit: 2 })), oldest: await pages(Sandbox.list({ query, limit: 2, order: 'asc' })) }
})
await step('list_template', async () => {
  const count = async (template) => (await pages(Sandbox.list({ query: { metadata, template } }))).flat().length
  return [await count('base'), await count('code-interpreter-v1'), await count('no-such-template')]
})
await step('list_later', async () => (await pages(Sandbox.list({ query: { metadata, startedAfter: new Date(Date.now() + 3600_000) } }))).flat().length)
await step('set_timeout', async () => {
  await s.setTimeout(1200_000)
  const later = (await s.getInfo()).endAt - Date.now()
  await s.setTimeout(900_000)
  return [later, (await s.getInfo()).endAt - Date.now()]
})
await step('metrics', async () => (await s.getMetrics()).map((m) => ({ ...m, timestamp: m.timestamp instanceof Date })))
await step('network_none', () => s.updateNetwork({ denyOut: ['8.8.8.8'], allowInternetAccess: false }))
await step('network', () => s.updateNetwork({ allowOut: ['1.1.1.1'] }))
await step('fork', async () => {
  await out(s, 'echo parent > /home/user/fork.txt')
  const children = await s.fork({ count: 2, timeoutMs: 600_000 })
  children.forEach(keep)
  await out(children[0], 'echo child > /home/user/fork.txt')
  return { ids: new Set([s, ...children].map((c) => c.sandboxId)).size, files: await Promise.all([s, ...children].map((c) => out(c, 'cat /home/user/fork.txt'))) }
})
await step('snapshot', async () => {
  const name = `${mark}-snapshot`
  const snapshot = await s.createSnapshot({ name })
  await out(s, 'echo later > /home/user/fork.txt')
  const again = keep(await Sandbox.create(snapshot.snapshotId, { timeoutMs: 600_000 }))
  const named = keep(await Sandbox.create(name, { timeoutMs: 600_000 }))
  const listed = await s.listSnapshots().nextItems()
  return {
    names: snapshot.names, wanted: name, listed: listed.map((x) => x.snapshotId), id: snapshot.snapshotId,
    files: [await out(again, 'cat /home/user/fork.txt'), await out(named, 'cat /home/user/fork.txt')],
    deleted: [await Sandbox.deleteSnapshot(snapshot.snapshotId), await Sandbox.deleteSnapshot(snapshot.snapshotId)],
    left: (await s.listSnapshots().nextItems()).length,
  }
})
await step('pause', async () => {
  await out(s, 'echo kept > /home/user/paused.txt')
  const answers = [await s.pause(), await s.pause()]
  const while_paused = { running: await s.isRunning(), state: (await s.getInfo()).state, listed: (await pages(Sandbox.list({ query: { metadata, state: ['paused'] } }))).flat(), running_ones: (await pages(Sandbox.list({ query: { metadata, state: ['running'] } }))).flat() }
  return { answers, while_paused }
})
await step('use_paused', () => out(s, 'true'))
await step('connect', async () => {
  const again = await Sandbox.connect(s.sandboxId, { timeoutMs: 600_000 })
  const left = (await again.getInfo()).endAt - Date.now()
  await Sandbox.connect(s.sandboxId, { timeoutMs: 1000 }) // never less time than it has
  return { same: again.sandboxId === s.sandboxId, file: await out(again, 'cat /home/user/paused.txt'), state: (await s.getInfo()).state, left, after: (await again.getInfo()).endAt - Date.now() }
})
await step('pause_without_memory', () => s.pause({ keepMemory: false }))
await step('timeout_kills', async () => {
  const short = await Sandbox.create({ timeoutMs: 5000 })
  await until('its end', async () => !(await short.isRunning()))
  return Sandbox.getInfo(short.sandboxId).then(() => 'there', (e) => e.name)
})
await step('timeout_pauses', async () => {
  const short = keep(await Sandbox.create({ timeoutMs: 5000, lifecycle: { onTimeout: 'pause', autoResume: true } }))
  const asked = (await short.getInfo()).lifecycle
  await until('its pause', async () => (await short.getInfo()).state === 'paused')
  return { asked, resumed: await until('an answer', () => out(short, 'echo awake').catch(() => '')) }
})
await step('template_exists', async () => [await Template.exists('base'), await Template.exists('no-such-template')])
await step('template_build', () => Template.build(Template().fromImage('debian'), `${mark}-template`))
await step('volume', () => Volume.create('mine'))
await step('host', () =>
  new Promise((resolve, reject) => { // the name that getHost gives is looked up by a browser; here the address is known
    const url = new URL(process.env.E2B_SANDBOX_URL)
    get({ host: url.hostname, port: url.port, path: '/', headers: { Host: s.getHost(3000) } }, async (answer) => {
      let text = ''
      for await (const chunk of answer) text += chunk
      resolve([answer.statusCode, JSON.parse(text)])
    }).on('error', reject)
  }))
await step('kill', async () => {
  const answers = [await s.kill(), await s.kill(), await Sandbox.kill(s.sandboxId), await s.isRunning()]
  return answers
})
await step('use_killed', () => out(s, 'true'))
for (const one of made) await one.kill().catch(() => null)
finish()
