// @ts-check
/** Light, dark, or as the system says. */

const PLACE = "pymotor-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  const found = localStorage.getItem(PLACE);
  return found === "light" || found === "dark" ? found : "auto";
}

function apply() {
  const choice = chosen();
  document.documentElement.dataset.theme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
  document.dispatchEvent(new Event("themechange"));
}

/** @param {HTMLElement} group the radio buttons */
export function followTheme(group) {
  for (const input of group.querySelectorAll("input")) {
    input.checked = input.value === chosen();
    input.addEventListener("change", () => {
      if (input.value === "auto") localStorage.removeItem(PLACE);
      else localStorage.setItem(PLACE, input.value);
      apply();
    });
  }
  dark.addEventListener("change", apply);
  apply();
}
