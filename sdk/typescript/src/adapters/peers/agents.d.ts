// What the sandbox client takes of @openai/agents, so that this package compiles without it (see "paths" in tsconfig.json).

export function applyDiff(input: string, diff: string, mode?: "default" | "create"): string;

export class Manifest {
  constructor(init?: unknown);
  readonly root: string;
  readonly entries: Record<string, unknown>;
  readonly extraPathGrants: { path: string }[];
  resolveEnvironment(): Promise<Record<string, string>>;
}
