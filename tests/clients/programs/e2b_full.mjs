import { e2b, finish, step } from './e2b_steps.mjs'

const { files } = await e2b.Sandbox.connect(process.env.SANDBOX)
const large = new Blob([new Uint8Array(80 * 1024 * 1024)])
await files.write('kept', 'old')
await step('octets', () => files.write('kept', large, { useOctetStream: true, requestTimeoutMs: 0 }))
await step('form', () => files.write('kept', large, { useOctetStream: false, requestTimeoutMs: 0 }))
await step('kept', () => files.read('kept'))
finish()
