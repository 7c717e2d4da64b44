// Writes the reference in docs/sdk-typescript.md out of the comments in src.
//
//     node scripts/reference.mjs FILE           put it into FILE, below the line that says so
//     node scripts/reference.mjs FILE --check   exit status 1 when what is there is not what would be written

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import ts from "typescript";

const MARK = "<!-- From here on scripts/reference.mjs writes, out of the comments in src. -->\n";
const root = fileURLToPath(new URL("..", import.meta.url));
const ENTRIES = {
  "@cella/sdk": "src/index.ts",
  "@cella/sdk/ai-sdk": "src/adapters/ai-sdk.ts",
  "@cella/sdk/anthropic": "src/adapters/anthropic.ts",
  "@cella/sdk/openai-agents": "src/adapters/openai-agents.ts",
  "@cella/sdk/openai-agents-sandbox": "src/adapters/openai-agents-sandbox.ts",
};

const config = ts.parseJsonConfigFileContent(ts.readConfigFile(`${root}/tsconfig.json`, ts.sys.readFile).config, ts.sys, root);
const program = ts.createProgram(Object.values(ENTRIES).map((path) => `${root}/${path}`), config.options);
const checker = program.getTypeChecker();

const oneLine = (text) => text.replace(/\s+/g, " ").trim();

/** The comment of a symbol: {@link X} as code, paragraphs kept. */
function comment(symbol) {
  const text = ts.displayPartsToString(symbol.getDocumentationComment(checker));
  return text.replace(/\{@link\w* ([^}]+)\}/g, (_, name) => `\`${name.trim()}\``).trim();
}

const modifiers = (declaration) => ts.getCombinedModifierFlags(declaration);
const hidden = (declaration) =>
  ts.isPrivateIdentifier(declaration.name ?? {}) ||
  Boolean(modifiers(declaration) & (ts.ModifierFlags.Private | ts.ModifierFlags.Protected)) ||
  ts.getJSDocTags(declaration).some((tag) => tag.tagName.text === "internal");

/** A member as it is written, without its body; a value's type is told when it is not written. */
function head(declaration, symbol) {
  const from = declaration.name.getStart();
  const to = declaration.body ? declaration.body.getFullStart() : (declaration.initializer?.getFullStart() ?? declaration.end);
  let text = oneLine(declaration.getSourceFile().text.slice(from, to)).replace(/[;=,]\s*$/, "").replaceAll(" | undefined", "").replaceAll("unknown)", "unknown)");
  if (ts.isPropertyAssignment(declaration) || (ts.isPropertyDeclaration(declaration) && !declaration.type)) {
    text = `${declaration.name.getText()}: ${checker.typeToString(checker.getTypeOfSymbolAtLocation(symbol, declaration), undefined, ts.TypeFormatFlags.NoTruncation)}`;
  }
  if (ts.isGetAccessor(declaration)) text = text.replace("()", "");
  return text.trim();
}

function members(symbols, prefix = "") {
  const lines = [];
  for (const symbol of symbols.filter((one) => !one.name.startsWith("__@species"))) {
    const all = (symbol.declarations ?? []).filter((one) => one.getSourceFile().fileName.startsWith(`${root}src/`) && one.name && !hidden(one));
    const shown = all.some((one) => !one.body) ? all.filter((one) => !one.body) : all;
    for (const declaration of shown) {
      const doc = oneLine(comment(symbol));
      lines.push(`* \`${prefix}${head(declaration, symbol)}\`${doc && declaration === shown[0] ? `  \n  ${doc}` : ""}`);
    }
  }
  return lines;
}

function describe(name, symbol) {
  const declaration = symbol.declarations[0];
  const out = [`### ${name}`, comment(symbol)];
  if (ts.isClassDeclaration(declaration)) {
    const base = declaration.heritageClauses?.[0]?.types[0]?.expression.getText();
    if (base && base !== "Branching") out.push(`Extends \`${base}\`.`);
    const instance = checker.getDeclaredTypeOfSymbol(symbol);
    const inherited = new Set(base && base !== "Branching" ? instance.getBaseTypes().flatMap((type) => type.getProperties().map((one) => one.name)) : []);
    const constructors = declaration.members.filter((one) => ts.isConstructorDeclaration(one) && !hidden(one) && one.parameters.length);
    out.push(
      [
        ...constructors.map((one) => `* \`new ${name}(${one.parameters.map((parameter) => oneLine(parameter.getText())).join(", ")})\``),
        ...members(checker.getPropertiesOfType(checker.getTypeOfSymbol(symbol)).filter((one) => one.name !== "prototype" && !base?.startsWith("Cella")), `${name}.`),
        ...members(instance.getProperties().filter((one) => !inherited.has(one.name))),
      ].join("\n"),
    );
  } else if (ts.isInterfaceDeclaration(declaration)) {
    const bases = declaration.heritageClauses?.[0]?.types.map((type) => `\`${type.getText()}\``);
    if (bases) out.push(`What ${bases.join(" and ")} have, and:`);
    out.push(members(declaration.members.map((one) => one.symbol).filter(Boolean)).join("\n"));
  } else if (ts.isTypeAliasDeclaration(declaration)) {
    out.push("```ts\n" + declaration.getText() + "\n```");
  } else if (ts.isFunctionDeclaration(declaration)) {
    const overloads = symbol.declarations.filter((one) => !one.body);
    for (const one of overloads.length ? overloads : symbol.declarations) {
      const written = oneLine(one.getSourceFile().text.slice(one.name.getStart(), one.body?.getFullStart() ?? one.end)).replace(/;$/, "").replaceAll(" | undefined", "");
      out.push("```ts\n" + written + "\n```");
    }
    const made = checker.getReturnTypeOfSignature(checker.getSignatureFromDeclaration(declaration));
    if (!declaration.type) out.push(members(made.getProperties()).join("\n"));
  } else {
    out.push(`\`${checker.typeToString(checker.getTypeOfSymbol(symbol))}\``);
  }
  return out.filter(Boolean).join("\n\n");
}

/** Exceptions in a few lines each: most are nothing but a name and a sentence. */
function errors(list) {
  const lines = list.map(([name, symbol]) => {
    const base = symbol.declarations[0].heritageClauses?.[0]?.types[0]?.expression.getText();
    return `* \`${name}\` (${base}): ${oneLine(comment(symbol))}`;
  });
  return ["### Errors", ...(lines.length ? [lines.join("\n")] : [])].join("\n\n");
}

function reference() {
  const seen = new Set();
  const out = ["# Reference"];
  for (const [entry, path] of Object.entries(ENTRIES)) {
    out.push(`## \`${entry}\``);
    const found = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(`${root}${path}`)));
    const failures = [];
    for (const one of found) {
      const symbol = one.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(one) : one;
      if (seen.has(symbol)) continue;
      seen.add(symbol);
      const base = symbol.declarations[0].heritageClauses?.[0]?.types[0]?.expression?.getText();
      if (ts.isClassDeclaration(symbol.declarations[0]) && base && /Error|ConflictError|NotFound/.test(base) && one.name !== "CellaError") failures.push([one.name, symbol]);
      else out.push(describe(one.name, symbol));
    }
    if (failures.length) out.push(errors(failures));
  }
  return out.join("\n\n") + "\n";
}

const [file, flag] = process.argv.slice(2);
const before = readFileSync(file, "utf8");
const at = before.indexOf(MARK);
if (at < 0) throw new Error(`${file} has no line "${MARK.trim()}"`);
const fresh = before.slice(0, at) + MARK + "\n" + reference();
if (flag !== "--check") writeFileSync(file, fresh);
else if (fresh !== before) {
  console.error(`${file} is not what the comments say: node scripts/reference.mjs ${file}`);
  process.exit(1);
}
