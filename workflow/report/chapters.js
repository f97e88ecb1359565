// Put into Snakemake's report by scripts/tools/finish_report.py: a chapter shows its figures and tables with their captions
// next to them, where Snakemake lists icons; what is too tall for the window starts at its top.
{
  const style = document.createElement("style");
  style.textContent = `
    #app .h-screen.overflow-auto {align-items: flex-start; justify-content: flex-start}
    .chapter, .front {padding: 1rem 1.5rem; width: 100%}
    .chapter h1 {font-size: 1.4rem; font-weight: 600; margin-bottom: .5rem}
    .chapter section, .shown {display: flex; flex-wrap: wrap; gap: 1.2rem; padding: .9rem 0; border-top: 1px solid #ddd}
    .chapter .picture {flex: 3 1 30rem; min-width: 0; max-width: 60rem}
    .chapter .picture img {max-width: 100%; max-height: 34rem; cursor: zoom-in}
    .chapter .page {flex: 1 1 100%; order: 1}
    .chapter iframe {width: 100%; height: 24rem; resize: vertical; border: 1px solid #ddd}
    .words {flex: 1 1 16rem; max-width: 34rem; min-width: 0; overflow-wrap: anywhere}
    .page + .words {max-width: 62rem}
    .words h2 {font-weight: 600; margin-bottom: .3rem} .words a {text-decoration: underline; cursor: pointer}
    .shown {display: block; border: 0; width: 100%} .shown .words {max-width: 60rem; padding: 0 .75rem}
    .front .prose {max-width: 62rem}`;
  document.head.append(style);

  const CONTENT = {"text/html": "html", "image/png": "img", "image/jpeg": "img", "image/svg+xml": "img"};
  const nameOf = (path, result) => Object.values(result.labels || {path}).join(", ");
  const caption = result => e("div", {className: "prose prose-sm", dangerouslySetInnerHTML: {__html: result.caption || ""}});

  function item(app, path) {
    const result = results[path], content = CONTENT[result.mime_type];
    const open = () => app.setView({content, contentPath: result.data_uri, resultPath: path});
    const alt = nameOf(path, result);
    const shown = {
      img: () => e("img", {src: result.data_uri, alt, onClick: open}),
      html: () => e("iframe", {src: result.data_uri, title: alt, loading: "lazy"}),
    }[content];
    const link = content ? {onClick: open} : {href: result.data_uri, download: result.name};
    return e("section", {key: path},
      e("div", {className: content === "html" ? "page" : "picture"}, shown ? shown() : null),
      e("div", {className: "words"}, e("h2", {}, alt), caption(result),
        e("a", link, content ? "whole window" : "save the table")));
  }

  function chapter(app) {
    const paths = Object.values(categories[app.state.category]).flat();
    paths.sort((a, b) => nameOf(a, results[a]).localeCompare(nameOf(b, results[b])));
    return e("div", {className: "chapter"}, e("h1", {}, app.state.category), paths.map(path => item(app, path)));
  }

  const bare = ContentDisplay.prototype.renderContent;
  ContentDisplay.prototype.renderContent = function () {
    const app = this.props.app, content = app.state.content, result = results[app.state.resultPath];
    if (content === "chapter") return chapter(app);
    if (content === "rulegraph" || (content === "metadata" && !Object.keys(metadata).length)) {
      const text = e("div", {className: "prose prose-sm", dangerouslySetInnerHTML: {__html: workflow_desc}});
      return e("div", {className: "front"}, text, e(RuleGraph, {setView: app.setView}));
    }
    if (!Object.values(CONTENT).includes(content) || !result) return bare.call(this);
    return e("div", {className: "shown"}, e("div", {className: "words"}, caption(result)), bare.call(this));
  };

  const showCategory = App.prototype.showCategory;
  App.prototype.showCategory = function (category) {
    showCategory.call(this, category);
    this.setView({content: "chapter", category});
  };
}
