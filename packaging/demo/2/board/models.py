from django.db import models


class Notice(models.Model):
    class Colour(models.TextChoices):
        YELLOW = "yellow"
        GREEN = "green"
        PINK = "pink"
        BLUE = "blue"

    text = models.CharField(max_length=280)
    name = models.CharField(max_length=40)
    # The default is the database's too: the release before this one does not know the column, and must be able to write when it is live again.
    colour = models.CharField(max_length=10, choices=Colour, default=Colour.YELLOW, db_default=Colour.YELLOW)
    posted = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-posted", "-id"]

    def __str__(self):
        return self.text
