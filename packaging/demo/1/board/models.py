from django.db import models


class Notice(models.Model):
    text = models.CharField(max_length=280)
    name = models.CharField(max_length=40)
    posted = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-posted", "-id"]

    def __str__(self):
        return self.text
