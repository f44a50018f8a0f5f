import { vitePreprocess } from "@sveltejs/vite-plugin-svelte";

export default {
  preprocess: vitePreprocess(),
  // The page may load styles from its own files alone: none is put in by scripts.
  compilerOptions: { runes: true, css: "external" },
};
