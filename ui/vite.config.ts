import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

export default defineConfig(({ mode }) => ({
  plugins: [svelte()],
  // The web view's own age: WebKitGTK 2.40, WebView2, Safari 16.4.
  build: { target: ["safari16.4", "chrome110"], modulePreload: false },
  // Components are tested as a browser runs them, not as a server renders them.
  resolve: mode === "test" ? { conditions: ["browser"] } : {},
  // axe reads every element's style: seconds where the machine is busy.
  test: { environment: "jsdom", testTimeout: 60_000, include: ["tests/**/*.test.ts"], setupFiles: ["tests/setup.ts"] },
}));
