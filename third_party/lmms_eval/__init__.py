"""Our models as a model of lmms-eval, under the name `mmjax`."""
