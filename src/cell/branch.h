/* branch.h: copies of a living cell, the tree they form, and how one of them takes its parent's place. Conventions as in world.h. */
#pragma once
#include "cell/cell.h"

/* body {n | count: 1..100 (1; count of a tree: 2), metadata, ttl_seconds, idle_timeout_seconds} or NULL. as_tree: the children's metadata says where they
 * belong (fork_tree_id, fork_tree_role, fork_parent_id, fork_index).
 *
 * Answer: {parent_id, children:[id], sandboxes:[cell_describe], errors:[{index, error, code, hint}], not_carried:[{kind, context_id, fd, pid, text,
 * sandbox_id?}], frozen_ms, snapshot_id: null, at}, and tree_id of a tree. Without a single child it is the error of the first. Every child in it is in
 * the store. What runs in the cell runs in each child too, as an execution of its own (forked_from). */
void cell_fork(struct cell *, struct json_object *body, bool as_tree, cell_json_cb, void *arg);

/* {sandbox_id, tree: node}; node = {id, state, reason, parent_id, created_at, ended_at, metadata, children:[node]}. The whole tree that the cell is in.
 * New reference; NULL with *err. */
struct json_object *cell_tree(struct cell *, struct err *);

/* The winner of a fork: body {tree_id, cleanup_siblings} or NULL. Answer {winner, tree_id, deleted:[id], failures:{id: sentence}}. conflict: it was not
 * forked, or belongs to another tree. */
void cell_promote(struct cell *winner, struct json_object *body, cell_json_cb, void *arg);

/* The cell `into` is from now on what `from` is: its id names from's contexts, files, processes; from's id is gone. What ran in `into` ends as "killed";
 * what runs in `from` goes on. `into` keeps its metadata, time limits and Space. conflict: from is neither a descendant nor a sibling of into. */
void cell_merge(struct cell *into, struct cell *from, cell_done_cb, void *arg);
