import { mockIPC } from "@tauri-apps/api/mocks";
import type { Channel } from "@tauri-apps/api/core";
import { render } from "@testing-library/svelte";
import userEvent from "@testing-library/user-event";
import axe from "axe-core";
import { flushSync } from "svelte";
import { expect } from "vitest";

import App from "../src/App.svelte";
import type { CleanupReport, ProfileStatus, Snapshot, View } from "../src/model";
import { Session } from "../src/session.svelte";
import json from "./examples.json";

interface Examples {
  now: number;
  desk: Snapshot;
  trouble: Snapshot;
  empty: Snapshot;
  cleanup: CleanupReport;
}

/** A copy of the examples that the Rust model has written, for a test to change. */
export function examples(): Examples {
  return structuredClone(json) as unknown as Examples;
}

export function profile(snapshot: Snapshot, name: string): ProfileStatus {
  const found = snapshot.profiles.find((each) => each.profile.name === name);
  if (!found) throw new Error(`no profile ${name}`);
  return found;
}

export function joined(snapshot: Snapshot): View {
  return { session: { session: "joined" }, snapshot, no_panel: false, minikube: true, version: "0.1.0" };
}

/** The page as it is mounted in the window, with the test in the place of the window's own process. */
export class Page {
  readonly user = userEvent.setup();
  /** What the page has asked for, but for the watch. */
  readonly asked: { command: string; arguments: unknown }[] = [];
  /** What is answered, by command; a thrown value is a refusal. */
  readonly answers: Record<string, (given: never) => unknown> = {};
  #channel: Channel<View> | undefined;

  constructor(view: View) {
    mockIPC((command, given) => {
      if (command === "watch") {
        this.#channel = (given as { channel: Channel<View> }).channel;
        return;
      }
      this.asked.push({ command, arguments: given });
      return this.answers[command]?.(given as never);
    });
    const session = new Session();
    render(App, { props: { session } });
    void session.watch();
    this.show(view);
  }

  /** What the window's process sends. */
  show(view: View): void {
    if (!this.#channel) throw new Error("the page does not watch");
    this.#channel.onmessage(structuredClone(view));
    flushSync();
  }

  /** Nothing that axe finds; colours are looked at in the real web view. */
  async isAccessible(): Promise<void> {
    const found = await axe.run(document.body, { rules: { "color-contrast": { enabled: false } } });
    const told = found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join("\n")}`);
    expect(told).toEqual([]);
  }
}
