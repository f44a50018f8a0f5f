/** What a screen reader is told beside what is shown; the last one wins. */
class Announcer {
  text = $state("");

  say(text: string): void {
    this.text = text;
  }
}

export const announcer = new Announcer();
