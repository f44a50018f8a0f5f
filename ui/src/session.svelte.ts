import { Channel, invoke } from "@tauri-apps/api/core";

import type { CleanupItem, CleanupReport, Command, ServiceKey, Settings, View } from "./model";

/** The page's end of the session: what is, and what can be asked for. It keeps nothing that the view has. */
export class Session {
  view = $state.raw<View>({ session: { session: "looking" }, snapshot: null, no_panel: false, minikube: true, version: "" });
  /** What was asked for and did not happen, in one sentence. */
  problem = $state<string | null>(null);

  async watch(): Promise<void> {
    const channel = new Channel<View>();
    channel.onmessage = (view) => {
      this.view = view;
    };
    await this.#ask("watch", { channel });
  }

  start(profile: string): Promise<boolean> {
    return this.#command({ command: "set_target", profile, target: "up" });
  }

  stop(profile: string): Promise<boolean> {
    return this.#command({ command: "set_target", profile, target: "down" });
  }

  configure(settings: Settings): Promise<boolean> {
    return this.#command({ command: "configure", settings });
  }

  startSession(): Promise<boolean> {
    return this.#ask("start_session");
  }

  /** Ends every tunnel and the session. */
  quit(): Promise<boolean> {
    return this.#command({ command: "quit" });
  }

  openService(profile: string, service: ServiceKey, port: number): Promise<boolean> {
    return this.#ask("open_service", { profile, service, port });
  }

  openGuide(): Promise<boolean> {
    return this.#ask("open_guide");
  }

  /** What a clean-up would remove. Throws the sentence that says why it is not known. */
  preview(): Promise<CleanupReport> {
    return invoke("clean_up", { dryRun: true, chosen: [] });
  }

  /** Removes what is ours and what was chosen. Throws as {@link preview} does. */
  cleanUp(chosen: CleanupItem[]): Promise<CleanupReport> {
    return invoke("clean_up", { dryRun: false, chosen });
  }

  #command(command: Command): Promise<boolean> {
    return this.#ask("command", { command });
  }

  async #ask(what: string, how: Record<string, unknown> = {}): Promise<boolean> {
    this.problem = null;
    try {
      await invoke(what, how);
      return true;
    } catch (error) {
      this.problem = String(error);
      return false;
    }
  }
}
