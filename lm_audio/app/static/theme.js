// Applies the theme before the first paint; a classic script, for modules run later.

{
  const KEY = "lm-audio-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const theme = localStorage.getItem(KEY) ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    window.dispatchEvent(new Event("theme"));
  };
  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const press = () =>
      button.setAttribute("aria-pressed", String(document.documentElement.dataset.theme === "dark"));
    press();
    window.addEventListener("theme", press);
    button.addEventListener("click", () => {
      const isDark = document.documentElement.dataset.theme === "dark";
      localStorage.setItem(KEY, isDark ? "light" : "dark");
      apply();
    });
  });
}
