// The package is of type "module"; the files below dist/cjs are not, and this file beside them says so.
import { writeFileSync } from "node:fs";

writeFileSync(new URL("../dist/cjs/package.json", import.meta.url), '{ "type": "commonjs" }\n');
