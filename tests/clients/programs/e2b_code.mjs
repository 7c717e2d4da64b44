import { e2b, finish, step } from './e2b_steps.mjs'

const { Sandbox } = e2b
const s = await Sandbox.create({ timeoutMs: 600_000, envs: { FIXED: 'f' } })
const long = { timeoutMs: 0, requestTimeoutMs: 0 } // the machine may be busy
const run = (code, options) => s.runCode(code, { ...long, ...options })
const plain = (x) => ({ text: x.text ?? null, count: x.executionCount ?? null, stdout: x.logs.stdout.join(''), stderr: x.logs.stderr.join(''), error: x.error ? { name: x.error.name, value: x.error.value, traceback: x.error.traceback } : null })
const formats = (r) => ({ formats: r.formats().sort(), main: r.isMainResult, text: r.text ?? null })

await step('text', async () => plain(await run('x = 40 + 2\nx')))
await step('state', async () => plain(await run('x + 1')))
await step('strings', async () => [(await run('"quoted"')).text, (await run(`"it's"`)).text, (await run(`['a']`)).text, (await run(`'' `)).text])
await step('nothing', async () => plain(await run('y = 1')))
await step('output', async () => {
  const seen = []
  const done = await run('import sys\nprint("héllo", flush=True)\nprint("oops", file=sys.stderr, flush=True)\n1', {
    onStdout: (m) => seen.push(['stdout', m.line, m.error, m.timestamp > 0]), onStderr: (m) => seen.push(['stderr', m.line, m.error, m.timestamp > 0]), onResult: (r) => seen.push(['result', r.text]),
  })
  return { seen, done: plain(done) }
})
await step('as_it_comes', async () => {
  // The second line is printed only when this program has seen the first.
  let first
  const done = await run('import os, time\nprint("first", flush=True)\nwhile not os.path.exists("/home/user/go"): time.sleep(0.01)\nprint("second")', {
    onStdout: async (m) => { if (m.line.includes('first')) { first = m.line; await s.files.write('/home/user/go', '') } },
  })
  return { first, stdout: done.logs.stdout.join('') }
})
await step('error', async () => {
  let told
  const done = plain(await run('def f():\n    raise ValueError("boom")\nf()', { onError: (e) => { told = e.name } }))
  return { told, done }
})
await step('after_error', async () => (await run('x')).text)
await step('exit', async () => plain(await run('import sys; sys.exit(3)')))
await step('env', async () => [(await run('import os; [os.environ.get("FIXED"), os.environ.get("ONCE")]', { envs: { ONCE: 'o' } })).text, (await run('os.environ.get("ONCE")')).text ?? null])
await step('kinds', async () => {
  const done = await run(`from IPython.display import *
display(HTML("<b>h</b>")); display(Markdown("# m")); display(Latex("$l$")); display(JSON({"j": [1]})); display(Javascript("js()"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'></svg>")); display({"application/pdf": "cGRm"}, raw=True); display({"application/x-own": "own"}, raw=True)
import io; from PIL import Image as P
b = io.BytesIO(); P.new("RGB", (1, 1)).save(b, "JPEG"); display(Image(b.getvalue(), format="jpeg"))
"the end"`)
  return { all: done.results.map(formats), json: done.results[3].json, html: done.results[0].html, own: done.results[7].extra['application/x-own'], text: done.text }
})
await step('figure', async () => {
  const done = await run('import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()')
  return { all: done.results.map(formats), png: done.results[0].png.slice(0, 8) }
})
await step('frame', async () => {
  const done = await run('import pandas as pd\npd.DataFrame({"a": [1, 2]})')
  return { ...formats(done.results[0]), html: done.results[0].html.includes('<table'), data: done.results[0].data ?? null, chart: done.results[0].chart ?? null }
})
await step('contexts', async () => {
  const c = await s.createCodeContext({ cwd: '/tmp' })
  const listed = await s.listCodeContexts()
  const cwd = (await run('import os; z = 1; os.getcwd()', { context: c })).text
  const apart = plain(await run('z')).error?.name
  await s.restartCodeContext(c)
  const restarted = plain(await run('z', { context: c })).error?.name
  const again = (await run('os' + '.getcwd()' , { context: c })).error?.name
  const by_id = (await run('import os; os.getcwd()', { context: c })).text
  await s.removeCodeContext(c)
  const left = await s.listCodeContexts()
  return { id: c.id, language: c.language, created: c.cwd, listed: listed.map((x) => x.id), cwd, apart, restarted, again, by_id, left: left.map((x) => [x.id, x.language, x.cwd]), removed: c.id }
})
await step('default_cwd', async () => (await s.createCodeContext()).cwd)
await step('context_missing', () => run('1', { context: { id: 'nope' } }))
await step('remove_missing', () => s.removeCodeContext('nope'))
await step('restart_missing', () => s.restartCodeContext('nope'))
await step('both', () => run('1', { context: { id: 'default' }, language: 'python' }))
await step('language_python', async () => (await run('x', { language: 'python' })).text)
await step('language_bash', async () => [plain(await run('V=kept; cd /tmp; echo out; echo err >&2', { language: 'bash' })), plain(await run('echo $V $PWD', { language: 'bash' }))])
await step('language_javascript', () => run('1', { language: 'javascript' }))
await step('context_javascript', () => s.createCodeContext({ language: 'javascript' }))
await step('home', async () => (await run('open("/home/user/from_code.txt", "w").write("code"); import os; os.path.realpath(".") == os.path.realpath("/home/user")')).text + (await s.files.read('/home/user/from_code.txt')))
await step('input', async () => plain(await run('input("? ")')).error?.name)
await step('timeout', async () => {
  // On a machine that is busy the time may be over before the code begins: then it gets more.
  await run('left = "not begun"')
  let refused
  for (const timeoutMs of [1500, 6000, 24000, 96000]) {
    refused = await run('left = "running"\nimport time\ntry:\n    while True: time.sleep(0.05)\nexcept KeyboardInterrupt:\n    left = "interrupted"', { timeoutMs }).catch((e) => e)
    if ((await run('left')).text !== 'not begun') break
  }
  if (refused instanceof Error) throw refused
})
await step('after_timeout', async () => (await run('left')).text)
await step('queue', async () => {
  const first = await run('q = [1]; q')
  const rest = await Promise.all([run('q.append(2); 2 in q'), run('len(q) > 0')])
  return [first, ...rest].map((x) => x.text)
})
await step('fork', async () => {
  await run('forked = [1]')
  const [child] = await s.fork()
  const seen = (await child.runCode('forked.append(2); forked', long)).text
  await child.kill()
  return [seen, (await run('forked')).text]
})
await step('pause', async () => {
  await run('kept = object(); name = id(kept)')
  await s.pause()
  const again = await Sandbox.connect(s.sandboxId, { timeoutMs: 600_000 })
  return (await again.runCode('id(kept) == name', long)).text
})
await step('killed_under_it', async () => {
  const victim = await Sandbox.create({ timeoutMs: 600_000 })
  const running = victim.runCode('import time\nprint("on", flush=True)\nwhile True: time.sleep(0.05)', { ...long, onStdout: () => void victim.kill() })
  return plain(await running)
})
await step('killed', async () => { await s.kill(); return plain(await run('1')) })
finish()
