import { mount } from "svelte";

import App from "./App.svelte";
import "./app.css";
import { Session } from "./session.svelte";

const target = document.getElementById("app");
if (target) {
  const session = new Session();
  mount(App, { target, props: { session } });
  void session.watch();
}
