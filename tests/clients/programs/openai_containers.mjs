/* OpenAI's npm package through /v1/containers. OPENAI_MODULE: its entry, OPENAI_BASE_URL: the daemon's /v1. */
import { finish, step } from './steps.mjs'

const { OpenAI, toFile } = await import(process.env.OPENAI_MODULE)
const client = new OpenAI({ timeout: 120_000 })
const fileOf = (name, text) => toFile(Buffer.from(text), name)
const text = async (id, container_id) => (await client.containers.files.content.retrieve(id, { container_id })).text()
const all = async (page) => {
  const list = []
  for await (const one of page) list.push(one)
  return list
}

let box
await step('create', async () => (box = await client.containers.create({ name: 'mine', expires_after: { anchor: 'last_active_at', minutes: 15 }, memory_limit: '1g' })))
await step('create_plain', async () => {
  const other = await client.containers.create({ name: 'plain' })
  await client.containers.delete(other.id)
  return other
})
await step('create_network', async () => {
  const other = await client.containers.create({ name: 'closed', network_policy: { type: 'disabled' } })
  await client.containers.delete(other.id)
  return other.network_policy
})
await step('create_allowlist', () => client.containers.create({ name: 'open', network_policy: { type: 'allowlist', allowed_domains: ['pypi.org'] } }))
await step('create_file_ids', () => client.containers.create({ name: 'x', file_ids: ['file-1'] }))
await step('create_skills', () => client.containers.create({ name: 'x', skills: [{ type: 'skill_reference', skill_id: 's' }] }))
await step('create_bad_size', () => client.containers.create({ name: 'x', memory_limit: '3g' }))
await step('create_bad_anchor', () => client.containers.create({ name: 'x', expires_after: { anchor: 'created_at', minutes: 5 } }))
await step('create_nameless', () => client.containers.create({}))

await step('retrieve', () => client.containers.retrieve(box.id))
await step('retrieve_unknown', () => client.containers.retrieve('cntr_' + '0'.repeat(32)))
await step('retrieve_other_id', () => client.containers.retrieve(box.id.replace('cntr_', 'sbx_')))
await step('list', async () => (await all(client.containers.list({ name: 'mine' }))).map((one) => one.id))
await step('list_pages', async () => {
  const made = []
  for (let i = 0; i < 3; i++) made.push((await client.containers.create({ name: 'paged' })).id)
  const page = await client.containers.list({ name: 'paged', limit: 2, order: 'asc' })
  const found = { first: page.data.map((one) => one.id), more: page.has_more, all: (await all(client.containers.list({ name: 'paged', limit: 2 }))).map((one) => one.id) }
  for (const id of made) await client.containers.delete(id)
  return { made, ...found }
})
await step('list_bad', () => client.containers.list({ order: 'sideways' }))
await step('list_bad_after', () => client.containers.list({ after: 'cntr_none' }))

let file
await step('file_create', async () => (file = await client.containers.files.create(box.id, { file: await fileOf('data "1" \u00e4.csv', 'a,b\n1,2\n') })))
await step('file_content', () => text(file.id, box.id))
await step('file_retrieve', () => client.containers.files.retrieve(file.id, { container_id: box.id }))
await step('file_empty', async () => {
  const empty = await client.containers.files.create(box.id, { file: await fileOf('empty', '') })
  return [empty.bytes, await text(empty.id, box.id)]
})
await step('file_large', async () => {
  const large = await client.containers.files.create(box.id, { file: await fileOf('large', 'line\r\n--\r\n'.repeat(2_000_000)) })
  const back = await text(large.id, box.id)
  await client.containers.files.delete(large.id, { container_id: box.id })
  return [large.bytes, back === 'line\r\n--\r\n'.repeat(2_000_000)]
})
await step('file_again', async () => {
  const again = await client.containers.files.create(box.id, { file: await fileOf('again', 'one') })
  const same = await client.containers.files.create(box.id, { file: await fileOf('again', 'other') })
  return [again.id === same.id, await text(same.id, box.id)]
})
await step('file_by_id', () => client.containers.files.create(box.id, { file_id: 'file-abc' }))
await step('file_nothing', () => client.containers.files.create(box.id, {}))
await step('file_unknown', () => client.containers.files.retrieve('cfile_6e6f', { container_id: box.id }))
await step('file_malformed', () => client.containers.files.retrieve('cfile_2e2e2f6574632f706173737764', { container_id: box.id }))

/* What code in the sandbox does is seen here, and the other way round. */
const run = async (code) => (await fetch(`${process.env.OPENAI_BASE_URL}/sandboxes/${box.id.replace('cntr_', 'sbx_')}/execute`, { method: 'POST', body: JSON.stringify({ code }) })).json()
await step('file_in_code', async () => (await run(`import os; os.makedirs('out', exist_ok=True); open('out/made.txt', 'w').write('made'); os.symlink('/etc/passwd', 'link'); open('data "1" \u00e4.csv').read()`)).text)
await step('file_list', async () => (await all(client.containers.files.list(box.id, { limit: 2 }))).map(({ path, bytes, source, object }) => ({ path, bytes, source, object })).sort((a, b) => (a.path < b.path ? -1 : 1)))
await step('file_made', async () => {
  const made = (await all(client.containers.files.list(box.id))).find((one) => one.path.endsWith('made.txt'))
  return text(made.id, box.id)
})
await step('file_delete', async () => {
  await client.containers.files.delete(file.id, { container_id: box.id })
  return client.containers.files.retrieve(file.id, { container_id: box.id })
})
await step('file_delete_again', () => client.containers.files.delete(file.id, { container_id: box.id }))

await step('delete', async () => {
  await client.containers.delete(box.id)
  return client.containers.retrieve(box.id)
})
finish()
