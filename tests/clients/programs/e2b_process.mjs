import { createHash } from 'node:crypto'
import { e2b, finish, step, until } from './e2b_steps.mjs'

const { Sandbox } = e2b
const sandbox = await Sandbox.connect(process.env.SANDBOX)
const { commands, files, pty } = sandbox
const only = ({ exitCode, stdout, stderr }) => ({ exitCode, stdout, stderr })

await step('run', async () => only(await commands.run('echo out; echo err >&2')))
await step('run_live', async () => {
  /* The second line is printed only after we were told of the first. */
  const seen = []
  const done = await commands.run('echo first; until [ -e /tmp/told ]; do sleep 0.05; done; echo second', {
    onStdout: async (text) => { seen.push(text); await files.write('/tmp/told', 'yes') }, timeoutMs: 120_000,
  })
  return { seen, stdout: done.stdout }
})
await step('run_fails', () => commands.run('echo before; echo why >&2; exit 3'))
await step('run_signal', () => commands.run('kill -TERM $$'))
await step('run_unknown', () => commands.run('no-such-program-here'))
await step('run_envs', async () => (await commands.run('echo "$A-$B"', { envs: { A: 'a b', B: 'ü' } })).stdout)
await step('run_cwd', async () => (await commands.run('pwd', { cwd: '/tmp' })).stdout)
await step('run_cwd_missing', () => commands.run('pwd', { cwd: '/no/such/place' }))
await step('run_home', async () => (await commands.run('cd /home/user && [ "$(pwd -P)" = "$(cd ~ && pwd -P)" ] && id -un && id -u')).stdout)
await step('run_root', async () => (await commands.run('id -u', { user: 'root' })).stdout)
await step('run_nobody', () => commands.run('id', { user: 'nobody' }))
await step('run_timeout', () => commands.run('sleep 300', { timeoutMs: 1000 }))
await step('timeout_kills', () => until('the end of a process whose time is over', async () => !(await commands.list()).some((p) => p.args.includes('sleep 300'))))
await step('run_big', async () => {
  const done = await commands.run('head -c 12000000 /dev/zero | tr "\\0" x', { timeoutMs: 0 })
  return { size: done.stdout.length, hash: createHash('sha256').update(done.stdout).digest('hex') === createHash('sha256').update('x'.repeat(12_000_000)).digest('hex') }
})
await step('run_slow_reader', async () => {
  /* Who reads slowly gets everything all the same. */
  let size = 0
  await commands.run('head -c 3000000 /dev/zero | tr "\\0" y', { timeoutMs: 0, onStdout: async (text) => { size += text.length; await new Promise((r) => setTimeout(r, 1)) } })
  return size
})
await step('run_split_character', async () => (await commands.run("printf '\\303'; sleep 0.2; printf '\\244'")).stdout)

await step('stdin', async () => {
  const handle = await commands.run('cat; echo end', { background: true, stdin: true })
  await commands.sendStdin(handle.pid, 'one\n')
  await handle.sendStdin('two\n')
  await handle.closeStdin()
  return only(await handle.wait())
})
await step('stdin_big', async () => {
  const handle = await commands.run('sha256sum', { background: true, stdin: true })
  const data = Buffer.alloc(3_000_000, 'z')
  for (let at = 0; at < data.length; at += 1_000_000) await commands.sendStdin(handle.pid, data.subarray(at, at + 1_000_000))
  await commands.closeStdin(handle.pid)
  return (await handle.wait()).stdout.startsWith(createHash('sha256').update(data).digest('hex'))
})
await step('stdin_closed', async () => {
  const handle = await commands.run('sleep 300', { background: true })
  try {
    await commands.sendStdin(handle.pid, 'x')
  } finally {
    await handle.kill()
  }
})
await step('stdin_missing', () => commands.sendStdin(999_999, 'x'))

await step('list', async () => {
  const handle = await commands.run('sleep 301', { background: true, cwd: '/tmp', envs: { N: 'v' } })
  const mine = (await commands.list()).find((p) => p.pid === handle.pid)
  await handle.kill()
  return { cmd: mine.cmd, args: mine.args, envs: mine.envs, cwd: mine.cwd, tag: mine.tag ?? null }
})
await step('kill', async () => {
  const handle = await commands.run('sleep 302', { background: true })
  const first = await handle.kill()
  const error = await handle.wait().catch((e) => ({ name: e.name, exitCode: e.exitCode, error: e.error }))
  return { first, again: await commands.kill(handle.pid), never: await commands.kill(999_999), error }
})
await step('connect', async () => {
  const handle = await commands.run('until [ -e /tmp/go-on ]; do sleep 0.05; done; echo later; exit 5', { background: true, timeoutMs: 0 })
  await handle.disconnect()
  const again = await commands.connect(handle.pid, { timeoutMs: 0 })
  await files.write('/tmp/go-on', '1')
  const error = await again.wait().catch((e) => e)
  return { same: again.pid === handle.pid, exitCode: error.exitCode, stdout: error.stdout }
})
await step('connect_two', async () => {
  const first = await commands.run('cat', { background: true, stdin: true, timeoutMs: 0 })
  const second = await commands.connect(first.pid, { timeoutMs: 0 })
  await first.sendStdin('both\n')
  await second.closeStdin()
  return [(await first.wait()).stdout, (await second.wait()).stdout]
})
await step('connect_missing', () => commands.connect(999_999))

const decoder = new TextDecoder()
await step('pty', async () => {
  let screen = ''
  const terminal = await pty.create({ cols: 90, rows: 30, onData: (data) => { screen += decoder.decode(data, { stream: true }) }, timeoutMs: 0, envs: { MARK: 'm1' } })
  const type = (text) => pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('stty size; echo "<$MARK>"; tty\n')
  await until('the size', () => screen.includes('30 90') && screen.includes('<m1>') && screen.includes('/dev/pts/'))
  await pty.resize(terminal.pid, { cols: 101, rows: 41 })
  await type('stty size\n')
  await until('the new size', () => screen.includes('41 101'))
  await type('exit 4\n')
  const error = await terminal.wait().catch((e) => e)
  return { exitCode: error.exitCode }
})
await step('pty_connect', async () => {
  let screen = ''
  const terminal = await pty.create({ cols: 80, rows: 24, onData: () => {}, timeoutMs: 0 })
  await terminal.disconnect()
  const again = await pty.connect(terminal.pid, { onData: (data) => { screen += decoder.decode(data, { stream: true }) }, timeoutMs: 0 })
  await pty.sendInput(terminal.pid, new TextEncoder().encode('echo ag""ain\n'))
  await until('the echo', () => screen.includes('again'))
  return { killed: await pty.kill(terminal.pid), ended: await again.wait().then(() => 'ok', (e) => e.error), again: await pty.kill(terminal.pid) }
})
await step('pty_wrong_input', async () => {
  const handle = await commands.run('cat', { background: true, stdin: true })
  try {
    await pty.sendInput(handle.pid, new Uint8Array([65]))
  } finally {
    await handle.kill()
  }
})
finish()
