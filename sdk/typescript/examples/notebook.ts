// Three turns of a notebook: each sees what the ones before left behind, as values, files and charts.
//
//     npm install @cella/sdk tsx
//     npx tsx notebook.ts

import { Sandbox } from "@cella/sdk";

await using sandbox = await Sandbox.create();

// 1: data comes in as a file.
await sandbox.filesystem.write("sales.csv", "month,sales\nJan,120\nFeb,95\nMar,180\nApr,210\n");
const first = await sandbox.runCode("import pandas as pd\nsales = pd.read_csv('sales.csv')\nsales", { check: true });
console.log(first.text);

// 2: the variable is still there; output arrives while it is printed.
await sandbox.runCode("for month, change in zip(sales.month, sales.sales.diff()):\n    print(month, change)", {
  check: true,
  onStdout: (text) => process.stdout.write(text),
});

// 3: a chart.
const third = await sandbox.runCode("ax = sales.plot.bar(x='month', y='sales')\nint(sales.sales.sum())", { check: true });
console.log(`total ${third.text}, a chart of ${third.png?.length} bytes`);
