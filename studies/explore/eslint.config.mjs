// What a linter holds the page's modules to: `npx eslint --config studies/explore/eslint.config.mjs studies/explore/static`
const browser = ["atob", "document", "fetch", "history", "location", "navigator", "performance", "requestAnimationFrame",
  "getComputedStyle", "setTimeout", "window", "Node", "ImageData", "Intl", "ResizeObserver", "URLSearchParams"];

export default [
  {
    languageOptions: { globals: Object.fromEntries(browser.map((name) => [name, "readonly"])), sourceType: "module" },
    rules: {
      eqeqeq: "error",
      "no-const-assign": "error",
      "no-dupe-keys": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-redeclare": "error",
      "no-shadow": "error",
      "no-undef": "error",
      "no-unreachable": "error",
      "no-unused-vars": "error",
      "no-use-before-define": ["error", { functions: false, classes: false }],
      "no-var": "error",
      "prefer-const": "error",
    },
  },
];
